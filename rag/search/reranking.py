"""Passages ordered again by a model that reads query and passage together.

A `Reranker` scores pairs of texts, higher being better. `CrossEncoder` is any sequence
classification model in a local folder, with one label or the last of several as relevance;
`PromptedRanker` asks a language model. Only safetensors weights are read and no code of a model is
run. What a reranker reads has left the index, so it is given readable passages alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from plumbrule.errors import ConfigError
from rag.access import Principal, readable
from rag.corpus import Corpus
from rag.index.encoders import device_of
from rag.index.protocol import Hits
from rag.search.config import reranker_damage
from rag.search.models import Answer, RefiningModels

HIGHEST_GRADE = 3
"""Of a language model's grades, which begin at 0."""
GRADE = re.compile(r"\d+")
LOWEST = -1e30
"""Stands for a score that is not finite."""


class Reranker(Protocol):
    """Says how well passages answer queries."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the relevance of each (query, passage), (n,) float."""


def rerank(
    query: str,
    hits: Hits,
    depth: int,
    reranker: Reranker,
    corpus: Corpus,
    principal: Principal,
) -> Hits:
    """Return the `depth` best of `hits` by the reranker's scores; equal ones stay in their order.

    Those whose score is not finite come last.

    Raises: ConfigError: a reranker that gives another number of scores than it was given pairs.
    """
    may_read = readable(corpus.rules, principal)
    rows = hits.rows[may_read[hits.rows]]
    if not len(rows):
        return Hits(rows, np.zeros(0), 0.0)
    scores = np.asarray(reranker.score([(query, corpus.chunks[row].searched) for row in rows]))
    if scores.shape != rows.shape:
        raise ConfigError(
            f"a reranker (={type(reranker).__name__}) must give one score a pair (={len(rows)}), "
            f"and gave {scores.shape}; mend its `score`."
        )
    scores = scores.astype(np.float64)
    scores = np.where(np.isfinite(scores), scores, LOWEST)
    order = np.argsort(-scores, kind="stable")[:depth]
    return Hits(rows[order], scores[order], floor=0.0)


def cross_encoder(models: RefiningModels) -> Reranker:
    """Return the reranker of an index's sequence classification model.

    Raises: ConfigError: the index has none.
    """
    if models.folder is None:
        raise ConfigError(
            "rag.refine.rerank (=cross_encoder) must have a model; name rag.refine.rerank_model."
        )
    return CrossEncoder(models.folder, device_of(models.device))


def graded(models: RefiningModels) -> Reranker:
    """Return the reranker that asks an index's language model for grades.

    Raises: ConfigError: the index has none.
    """
    if models.answer is None:
        raise ConfigError(
            "rag.refine.rerank (=language_model) must have one; name "
            "rag.refine.language_model.name_or_path."
        )
    return PromptedRanker(models.answer)


class CrossEncoder:
    """A sequence classification model that reads query and passage as one input.

    Args: folder: with a safetensors model and its tokenizer. device: `cpu` or `cuda`.
    Raises: ConfigError: the folder holds no such model, or one that is damaged.
    """

    def __init__(self, folder: Path, device: str = "cpu", batch_size: int = 32):
        damaged = reranker_damage(folder)
        if damaged is not None:
            raise ConfigError(
                f"rag.refine.rerank_model (={folder}) must be a folder with a sequence "
                f"classification model in safetensors ({damaged}); convert it, or give another."
            )
        from sentence_transformers import CrossEncoder as Model

        self._batch_size = batch_size
        self._model: Any = Model(
            str(folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )

    def save(self, folder: Path) -> None:
        """Write the model and its tokenizer, as safetensors."""
        self._model.save_pretrained(str(folder), safe_serialization=True)

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the relevance of each (query, passage), (n,) float32: the last label's logit."""
        import torch

        scores = self._model.predict(
            [list(pair) for pair in pairs],
            batch_size=self._batch_size,
            show_progress_bar=False,
            activation_fn=torch.nn.Identity(),
            convert_to_numpy=True,
        )
        scores = np.asarray(scores, dtype=np.float32)
        return scores[:, -1] if scores.ndim == 2 else scores


class PromptedRanker:
    """A language model that grades each passage from 0 to `HIGHEST_GRADE`.

    Args: answer: the model's answers to prompts, one each (`plumbrule/lm` makes such).
    """

    def __init__(self, answer: Answer):
        self._answer = answer

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return each grade, (n,) float64; an answer without one is -1, below every grade."""
        prompts = [
            f"How well does the passage answer the question? Reply with one number from 0 (not at "
            f"all) to {HIGHEST_GRADE} (fully).\n\nQuestion: {query}\n\nPassage: {text}\n\nNumber:"
            for query, text in pairs
        ]
        return np.array([grade_of(answer) for answer in self._answer(prompts)], dtype=np.float64)


def grade_of(answer: str) -> float:
    """Return the first number of an answer, if it is a grade; else -1."""
    found = GRADE.search(answer)
    grade = int(found.group()) if found else -1
    return float(grade) if 0 <= grade <= HIGHEST_GRADE else -1.0
