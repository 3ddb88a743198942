"""Settings of searches, carried out: what an index stage writes for them, and how it is opened.

`rag.refine` of an index stage is what every search of its artifact does when a run makes it. What
that needs lies in the artifact, so that it can be opened on another machine:

    language_model/   the policy that is asked in searches
    reranker/         the sequence classification model
    summaries/        `summaries.jsonl` (a line is a summary's row), `bm25/` and `vectors/`

`fingerprint.json` says under `refine` what is on, and nothing where all is off.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Document
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.lm.loading import load_policy, resolve_device, save_policy
from plumbrule.lm.named_policy import load_named
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.json_files import write_jsonl
from rag.chunks import Chunk
from rag.corpus import Corpus
from rag.index.bm25 import KeywordIndex
from rag.index.encoders import Encoder, device_of, repository_folder
from rag.index.encoding import encode
from rag.index.exact import ExactIndex
from rag.index.protocol import SearchIndex
from rag.index.vector_files import save_vectors
from rag.options import RERANKERS, REWRITERS, SUMMARIES
from rag.search.answer_journal import AnswerJournal
from rag.search.config import RefineConfig
from rag.search.language_model import AskedModel
from rag.search.models import Answer, RefiningModels
from rag.search.refitting import EncoderOfReaders, RefittedIndexes
from rag.search.reranking import CrossEncoder, Reranker
from rag.search.rewriting import RewritingIndex
from rag.search.summaries import SummaryIndex
from rag.search.summarising import field, lead, written

LANGUAGE_MODEL, RERANKER, SUMMARY_FOLDER = "language_model", "reranker", "summaries"
SUMMARY_TEXTS, KEYWORDS, VECTORS = "summaries.jsonl", "bm25", "vectors"
ANSWERS = "answers.jsonl"
"""What an attempt has been answered so far; nothing of it is published."""
OUR_SUMMARIES = (lead, field, written)
"""Imported, so that they are part of the stage's code."""


def take_models(
    config: RefineConfig,
    given: Artifact | None,
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Answer | None:
    """Copy into `out` the models that searches will need; return the language model.

    Args: given: the policy of the node's inputs. out: of the index.
    Returns: None where nothing asks a language model.
    Raises: ConfigError: a model that can't be had or read.
    """
    for name in (LANGUAGE_MODEL, RERANKER):
        shutil.rmtree(out / name, ignore_errors=True)
    if config.rerank_model is not None:
        folder = Path(config.rerank_model)
        if not folder.is_dir():
            name, commit = config.rerank_model, config.rerank_revision
            folder = repository_folder(name, commit, "rag.refine.rerank_model")
        CrossEncoder(folder, device_of(runtime.device)).save(out / RERANKER)
    if not config.asks:
        return None
    asked = config.language_model
    policy = load_named(
        asked.name_or_path,
        given,
        "rag.refine.language_model",
        device=resolve_device(runtime),
        revision=asked.revision,
        pad_token=asked.pad_token,
    )
    if config.asks_in_search:
        save_policy(policy, out / LANGUAGE_MODEL)
    journal = AnswerJournal(out / ANSWERS) if config.asks_in_building else None
    return AskedModel(policy, asked.max_new_tokens, asked.batch_size, tracker, journal)


def save_summaries(
    config: RefineConfig,
    documents: Sequence[Document],
    chunks: Sequence[Chunk],
    encoder: Encoder,
    batch_size: int,
    answer: Answer | None,
    out: Path,
    tracker: Tracker,
) -> None:
    """Write a summary of each document, where they are searched, with the rows it stands for."""
    folder = out / SUMMARY_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    if config.summaries is None:
        return
    rows: dict[str, list[int]] = {}
    for row, chunk in enumerate(chunks):
        rows.setdefault(chunk.document, []).append(row)
    kept = sorted((d for d in documents if d.id in rows), key=lambda document: document.id)
    summaries = SUMMARIES[config.summaries](kept, answer)
    if len(summaries) != len(kept):
        raise ConfigError(
            f"rag.refine.summaries (={config.summaries}) must give one text a document "
            f"(={len(kept)}), and gave {len(summaries)}; mend it."
        )
    pairs = zip(kept, summaries, strict=True)
    texts = [titled(text, document.title) for document, text in pairs]
    folder.mkdir(parents=True)
    lines = zip(kept, summaries, strict=True)
    write_jsonl(folder / SUMMARY_TEXTS, ({"text": t, "rows": rows[d.id]} for d, t in lines))
    KeywordIndex.build(texts).save(folder / KEYWORDS)
    save_vectors([encode(encoder, texts, batch_size, tracker)], folder / VECTORS)


def titled(summary: str, title: str) -> str:
    """Return a summary as it is encoded and indexed, with its document's title."""
    return f"{title}\n{summary}" if title else summary


def facts_of(config: RefineConfig) -> dict[str, Any]:
    """Return what `fingerprint.json` says of searches; {}: they are those of the method alone."""
    if not config.changes_searches:
        return {}
    asked = config.language_model
    return {
        "rewrite": config.rewrite,
        "num_rewrites": config.num_rewrites,
        "summaries": config.summaries,
        "fusion": config.fusion,
        "rerank": config.rerank,
        "depth": config.depth,
        "mmr": config.mmr,
        "neighbours": config.neighbours,
        "max_new_tokens": asked.max_new_tokens,
        "batch_size": asked.batch_size,
    }


def open_answer(artifact: Artifact, facts: Mapping[str, Any], device: str) -> Answer | None:
    """Return the language model that an index holds; None: it holds none.

    Raises: ArtifactError: its files are damaged.
    """
    if not (artifact.path / LANGUAGE_MODEL).is_dir():
        return None
    policy = load_policy(artifact.file(LANGUAGE_MODEL), device=device_of(device))
    return AskedModel(policy, int(facts["max_new_tokens"]), int(facts["batch_size"]))


def open_reranker(
    artifact: Artifact, facts: Mapping[str, Any], answer: Answer | None, device: str
) -> Reranker | None:
    """Return the reranker of an index; None: it has none."""
    if facts["rerank"] is None:
        return None
    there = (artifact.path / RERANKER).is_dir()
    folder = artifact.file(RERANKER) if there else None
    return RERANKERS[facts["rerank"]](RefiningModels(answer, folder, device))


def rewritten(
    index: SearchIndex[Sequence[str]], facts: Mapping[str, Any], answer: Answer | None
) -> SearchIndex[Sequence[str]]:
    """Return the index, searched for what its rewriter makes of queries, where it has one."""
    if facts["rewrite"] is None:
        return index
    return RewritingIndex(index, REWRITERS[facts["rewrite"]](answer, int(facts["num_rewrites"])))


def open_summaries(
    artifact: Artifact,
    rank: Callable[
        [Callable[[], ExactIndex], Callable[[], KeywordIndex], Callable[[], RefittedIndexes]], Any
    ],
    corpus: Corpus,
    encoders: Callable[[], EncoderOfReaders],
) -> SummaryIndex:
    """Return the index of a document's summaries.

    Args: rank: makes a method's index of texts from what opens the vectors and the keywords, and
        those of whom may not read all summaries. encoders: of the passages.
    Raises: ArtifactError: files that are damaged or don't belong together.
    """
    folder = artifact.file(SUMMARY_FOLDER)
    written = [row for _, row in read_rows(folder / SUMMARY_TEXTS)]
    sources = [np.array(row["rows"], dtype=np.int64) for row in written]
    passages = len(corpus)
    every = np.concatenate(sources) if sources else np.zeros(0, dtype=np.int64)
    if sorted(every.tolist()) != list(range(passages)):
        raise ArtifactError(
            f"{folder / SUMMARY_TEXTS} (={len(every)} rows) must stand for each passage "
            f"(={passages}) once; build the index again."
        )

    def fitting(index: Any) -> Any:
        if len(index) != len(sources):
            raise ArtifactError(
                f"{folder} (={len(index)} entries) must have one per summary (={len(sources)}); "
                "build the index again."
            )
        return index

    def texts() -> list[str]:
        titles = [corpus.chunks[rows[0]].title for rows in sources]
        return [titled(str(row["text"]), t) for row, t in zip(written, titles, strict=True)]

    def passages_of(readable: np.ndarray) -> np.ndarray:
        found = np.zeros(passages, dtype=bool)
        found[np.concatenate([sources[place] for place in np.flatnonzero(readable)])] = True
        return found

    return SummaryIndex(
        rank(
            lambda: fitting(ExactIndex.load(folder / VECTORS)),
            lambda: fitting(KeywordIndex.load(folder / KEYWORDS, texts)),
            lambda: RefittedIndexes(encoders(), texts, lambda v: ExactIndex([v]), passages_of),
        ),
        sources,
    )
