"""The stage: documents with questions in, a sentence encoder that was tuned on them out.

1 read documents, cut chunks, and hold out the questions of some documents; 2 encode chunks and
questions and measure recall before; 3 mine an answer and hard negatives for each question that is
learned from (`mining.py`); 4 train (`training.py`); 5 write the encoder, and measure recall after,
over the same held-out questions and all chunks.

The artifact holds `model/`, a sentence-transformers folder, which an index takes through its
`encoder` input. Which document's questions are held out depends on the hash of its id alone, so two
encoders are compared on the same questions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.config import require
from plumbrule.data.records import Document, read_records
from plumbrule.errors import DataError
from plumbrule.lm.randomness import generator, row_key, uniforms
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import mean_interval, paired_interval, share_interval
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import MODEL, NOTES, RECORDS
from plumbrule.store.headline import publish
from plumbrule.store.json_files import write_json
from rag.chunks import cut
from rag.corpus import Corpus
from rag.encoder.config import EncoderConfig
from rag.encoder.mining import mine
from rag.encoder.training import train
from rag.index.encoders import NeuralEncoder, device_of, make_encoder
from rag.index.encoding import encode
from rag.index.exact import ExactIndex
from rag.recall import CUTS, DEPTH, RecallQuery, evenly_spaced, questions_of, rank_of
from rag.search.engine import DenseIndex, IndexRetriever

FEWEST = 2
"""Fewest questions that training can use: the answer to one is a negative of the other."""


def run(
    config: EncoderConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Tune an encoder on the `documents` input under `out` and return its metrics.

    Raises: DataError: too few documents carry questions. ConfigError: an encoder that can't be had,
        or one without weights of its own.
    """
    # 1
    documents = read_records(Document, inputs["documents"].file(RECORDS))
    chunks = cut(documents, config.chunk_words, config.overlap_words)
    texts = [chunk.searched for chunk in chunks]
    learned, unseen = divided(questions_of(documents), config.held_out)
    asked = evenly_spaced(unseen, config.num_queries)
    if len(learned) < FEWEST:
        raise DataError(
            f"the documents must carry at least {FEWEST} questions to learn from (meta.questions), "
            f"and carry {len(learned)}; add questions, or lower encoder.held_out."
        )
    # 2
    device = device_of(runtime.device)
    _, encoder = make_encoder(str(config.name_or_path), config.revision, 0, texts, device)
    named = config.name_or_path
    rule, fix = "name a sentence-transformers model", "hashing has no weights to train"
    require(isinstance(encoder, NeuralEncoder), "encoder.name_or_path", named, rule, fix)
    assert isinstance(encoder, NeuralEncoder)
    corpus = Corpus([chunk._replace(readers=("*",)) for chunk in chunks])
    vectors = encode(encoder, texts, config.batch_size, tracker)
    before = ranks_of(corpus, vectors, encoder, asked)
    # 3
    mined = mine(
        [one.text for one in learned],
        [one.document for one in learned],
        encoder.encode_queries([one.text for one in learned]),
        vectors,
        corpus.by_document,
        number=config.num_negatives,
        depth=config.negative_depth,
        margin=config.margin,
        draw=generator("hard negatives", config.seed),
    )
    # 4
    started = time.perf_counter()
    if config.num_train_epochs > 0:
        train(encoder, mined.examples, texts, config, device, out, tracker)
    train_seconds = time.perf_counter() - started
    # 5
    encoder.save(out / MODEL)
    vectors = encode(encoder, texts, config.batch_size, tracker)
    after = ranks_of(corpus, vectors, encoder, asked)
    groups = [one.document for one in asked]
    number = sum(len(one.negatives) for one in mined.examples)
    write_json(out / NOTES, notes_on(len(asked)))
    return {
        "encoder/questions": float(len(learned)),
        "encoder/drawn_negatives": mined.num_drawn / max(number, 1),
        "encoder/train_seconds": train_seconds,
        **publish(recall(before, after, groups) if asked else {}, out),
    }


def divided(
    questions: Sequence[RecallQuery], held_out: float
) -> tuple[list[RecallQuery], list[RecallQuery]]:
    """Return (questions to learn from, held-out ones), by the hash of their documents' ids."""
    learned: list[RecallQuery] = []
    unseen: list[RecallQuery] = []
    for one in questions:
        key = np.array([row_key("encoder held out", one.document)], dtype=np.uint64)
        (unseen if uniforms(key, 0)[0] < held_out else learned).append(one)
    return learned, unseen


def ranks_of(
    corpus: Corpus, vectors: np.ndarray, encoder: NeuralEncoder, asked: Sequence[RecallQuery]
) -> np.ndarray:
    """Return the rank of each question's document, (n,) float, infinite beyond `DEPTH` passages."""
    retriever = IndexRetriever(corpus, DenseIndex(ExactIndex([vectors]), encoder, refitted=None))
    found = retriever.search([one.text for one in asked], DEPTH)
    return np.array([rank_of(q.document, some) for q, some in zip(asked, found, strict=True)])


def recall(
    before: np.ndarray, after: np.ndarray, documents: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Return recall and MRR before and after training, and their paired gains, with intervals.

    Args: before, after: ranks (n,) of the same questions. documents: that answer them; their
        questions are resampled together.
    """
    measures = {
        f"recall_at_{k}": [(ranks <= k).astype(float) for ranks in (before, after)] for k in CUTS
    }
    measures["mrr"] = [np.where(np.isfinite(ranks), 1.0 / ranks, 0.0) for ranks in (before, after)]
    numbers: dict[str, Mapping[str, Any]] = {}
    for name, (was, now) in measures.items():
        interval = mean_interval if name == "mrr" else share_interval
        numbers[f"encoder/{name}"] = interval(now, documents).as_json()
        numbers[f"encoder/{name}_before"] = interval(was, documents).as_json()
        numbers[f"encoder/{name}_gain"] = paired_interval(was, now, documents).as_json()
    return numbers


def notes_on(num_asked: int) -> list[str]:
    """Return a sentence where nothing could be measured."""
    if num_asked:
        return []
    return ["no question is held out, so recall is not measured (encoder.held_out)."]
