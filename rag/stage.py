"""Stage `index`: documents in, a frozen store of passages out.

1 read documents, of the input or of a live store's commit, 2 cut chunks, 3 encode, 4 write both
indexes and what searches need beside them, 5 write the fingerprint, 6 open what was written and
measure it.

The artifact holds `passages.jsonl` (a chunk's line is its row in both indexes), `index.faiss` and,
for an index that is not FAISS's flat one, `vectors/` (`rag/index/dense_files.py`), `bm25/`,
`encoder/` and `fingerprint.json`. None of them holds a time or a path of the machine: the same
documents and config give the same bytes, on the same library versions. An attempt that was killed
goes on with the vectors that a neural encoder had made and the answers that a language model had
given (contexts, summaries), and makes everything else again.

Metrics: `rag/documents`, `rag/chunks`, `rag/build_seconds` and, where documents that runs may find
carry questions, `rag/recall_at_1`, `rag/recall_at_5` and `rag/mrr` of the hybrid, and the same with
`_bm25` and `_dense` at the end; with `_refined` the hybrid's as `rag.refine` has it, where that
changes searches.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.data.records import Document, read_records
from plumbrule.protocols import Retriever, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, sha256
from plumbrule.store.file_names import MODEL, NOTES, RECORDS
from plumbrule.store.json_files import write_json
from plumbrule.store.layout import store_root
from rag.access import principal_of
from rag.beir import RetrievalSet, read_beir
from rag.chunking.choosing import chunker_of
from rag.chunking.cutting import Chunker, Cutting
from rag.chunks import Chunk, cut, write_chunks
from rag.config import IndexConfig
from rag.corpus import Corpus
from rag.index.bm25 import KeywordIndex
from rag.index.dense import import_faiss
from rag.index.dense_files import save_dense
from rag.index.encoders import NEURAL, Encoder, content_of, make_encoder, properties_of
from rag.index.encoding import VectorCache, encode
from rag.index.headers import searched_texts
from rag.keyword.words import SETTINGS
from rag.options import ENCODERS
from rag.recall import evenly_spaced, measure, questions_of
from rag.retrieval_metrics import documents_of as ranked_documents
from rag.retrieval_metrics import means, measure_rankings
from rag.retriever import (
    ENCODER,
    FINGERPRINT,
    KEYWORDS,
    METHODS,
    PASSAGES,
    open_index,
)
from rag.search.contexts import CONTEXT, with_contexts, with_placeholders
from rag.search.refining import ANSWERS, facts_of, save_summaries, take_models
from rag.store.naming import documents_at

JUDGED_PASSAGES = 300
"""Passages asked for, per judged query: a document of several chunks takes several ranks."""
ENCODED = "encoded"
"""Folder of vectors that an attempt has made so far; nothing of it is published."""


def run(
    config: IndexConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Build the index of the `documents` input under `out` and return its metrics.

    Raises: DataError: no document, one without text, two of one id. ConfigError: an encoder that
        can't be had; not exactly one FAISS.
    """
    import_faiss()
    started = time.perf_counter()
    # 1
    judged = None if config.beir is None else read_beir(Path(config.beir), config.beir_split)
    documents = documents_of(config, inputs) if judged is None else judged.with_questions()
    carried = questions_of(documents)
    # 2
    tuned = inputs.get("encoder")
    named = config.encoder if tuned is None else str(tuned.file(MODEL))
    chunker = chunker_for(config, named, runtime.device)
    words = (config.chunk_words, config.overlap_words)
    chunks = cut(documents, *words, config.readers, chunker)
    refine = config.refine
    findable(config, with_placeholders(chunks) if refine.context else chunks)  # fields, early
    answer = take_models(refine, inputs.get("policy"), runtime, out, tracker)
    header = list(config.header)
    if refine.context and answer is not None:
        chunks = with_contexts(chunks, documents, answer)
        header += [] if CONTEXT in header else [CONTEXT]
    may_be_found = findable(config, chunks)
    asked = [question for question in carried if question.document in may_be_found]
    questions = evenly_spaced(asked, config.num_queries)
    measured = None if judged is None else judged.among(may_be_found)
    write_chunks(chunks, out / PASSAGES)
    texts = searched_texts(chunks, header)
    # 3
    kind, encoder = make_encoder(
        named,
        config.encoder_revision,
        config.dimensions,
        texts,
        runtime.device,
        config.precision,
    )
    for folder in (KEYWORDS, ENCODER):
        shutil.rmtree(out / folder, ignore_errors=True)
    encoder.save(out / ENCODER)
    made_by = {
        "kind": kind,
        "name": Path(named).name if Path(named).is_dir() else named,
        "revision": config.encoder_revision,
        "content": content_of(out / ENCODER),
        "dimensions": encoder.dimensions,
        **properties_of(encoder),
    }
    cache = None
    if kind == NEURAL:
        kept = Path(config.vector_cache) if config.vector_cache is not None else out / ENCODED
        cache = VectorCache(kept, made_by, encoder.dimensions)
    vectors = encode(encoder, texts, config.batch_size, tracker, cache)
    # 4
    dense = save_dense(vectors, config, out)
    KeywordIndex.build(texts).save(out / KEYWORDS)
    size = config.batch_size
    save_summaries(refine, documents, chunks, encoder, size, answer, out, tracker)
    # 5
    about = {
        "encoder": made_by,
        "dense_index": config.dense_index,
        "dense": dense,
        "keywords": SETTINGS,
        "chunking": chunking_of(config),
        "header": header,
        "search": {"principal": list(config.principal), "filter": config.filter},
        "documents": len(documents),
        "chunks": len(chunks),
        "passages_sha256": sha256(out / PASSAGES),
    }
    if facts := facts_of(refine):
        about["refine"] = facts
    write_json(out / FINGERPRINT, about)
    build_seconds = time.perf_counter() - started
    notes = notes_on(encoder, texts) + notes_on_questions(len(asked), len(carried))
    notes += notes_on_judgements(judged, measured)
    write_json(out / NOTES, notes)
    # 6
    metrics = {
        "rag/documents": float(len(documents)),
        "rag/chunks": float(len(chunks)),
        "rag/build_seconds": build_seconds,
    }
    opened = open_index(Artifact.of(out, "index"), runtime)
    for method in METHODS if questions else ():
        retriever = opened.retriever(method, refined=False)
        suffix = "" if method == "hybrid" else f"_{method}"
        found = measure(retriever, questions)
        metrics |= {f"rag/{name}{suffix}": value for name, value in found.items()}
        metrics |= judged_metrics(retriever, measured, suffix)
    if questions and refine.changes_searches:
        retriever = opened.retriever("hybrid")
        found = measure(retriever, questions)
        metrics |= {f"rag/{name}_refined": value for name, value in found.items()}
        metrics |= judged_metrics(retriever, measured, "_refined")
    # What a killed attempt goes on with is kept until nothing can fail any more.
    shutil.rmtree(out / ENCODED, ignore_errors=True)
    (out / ANSWERS).unlink(missing_ok=True)
    return metrics


def judged_metrics(
    retriever: Retriever, judged: RetrievalSet | None, suffix: str
) -> dict[str, float]:
    """Return nDCG@10 and recall@100 of documents over all judged queries; {}: there are none.

    Args: judged: without what runs may not find.

    A document stands at the rank of its first passage, among the best `JUDGED_PASSAGES`.
    """
    if judged is None or not judged.queries:
        return {}
    queries = judged.queries
    found = retriever.search(list(queries.values()), JUDGED_PASSAGES)
    ranked = dict(zip(queries, map(ranked_documents, found), strict=True))
    told = means(measure_rankings(ranked, judged.judged, [10, 100]))
    return {
        f"rag/ndcg_at_10{suffix}": told["ndcg@10"],
        f"rag/recall_at_100{suffix}": told["recall@100"],
    }


def documents_of(config: IndexConfig, inputs: Mapping[str, Artifact]) -> list[Document]:
    """Return the documents of a live store's commit, or of the input.

    Raises: DataError: malformed, or no longer those that were planned with.
    """
    if config.store is None:
        return read_records(Document, inputs["documents"].file(RECORDS))
    root, commit = Path(store_root(config.store_root)), config.commit
    assert commit is not None  # filled in by the config
    return documents_at(root, config.store, commit, config.store_content)


def chunker_for(config: IndexConfig, encoder_name: str, device: str) -> Chunker | None:
    """Return the chunker that the config names; None: by words, which needs nothing.

    Args: encoder_name: one of `ENCODERS`, or a folder or hub name.
    Raises: ConfigError: a tokenizer or an encoder that can't be had.
    """
    by = config.chunker.by
    if by == "words":
        return None
    encode: Callable[[Sequence[str]], np.ndarray] | None = None
    if by == "semantic" and encoder_name in ENCODERS:

        def encode(sentences: Sequence[str]) -> np.ndarray:
            """Encode a document's sentences by what it says alone, so that no other moves a cut."""
            fitted = ENCODERS[encoder_name].fit(sentences, config.dimensions)
            return fitted.encode_passages(sentences)

    elif by == "semantic":
        revision, precision = config.encoder_revision, config.precision
        _, encoder = make_encoder(encoder_name, revision, 0, [], device, precision)
        encode = encoder.encode_passages
    return chunker_of(Cutting(config.chunk_words, config.overlap_words, config.chunker, encode))


def chunking_of(config: IndexConfig) -> dict[str, Any]:
    """Return what `fingerprint.json` says of how documents were cut."""
    words = {"chunk_words": config.chunk_words, "overlap_words": config.overlap_words}
    if config.chunker.by == "words":
        return words
    about = dataclasses.asdict(config.chunker)
    if config.chunker.tokenizer is not None:
        about["tokenizer"] = Path(config.chunker.tokenizer).name
    return {**words, **about}


def findable(config: IndexConfig, chunks: Sequence[Chunk]) -> set[str]:
    """Return the ids of the documents that runs may find: their principal, with their filter.

    Raises: ConfigError: the filter names a field that no passage has which they may read.
    """
    principal = principal_of(config.principal, "rag.principal")
    rows = Corpus(chunks).select(principal, config.filter, "rag.filter").rows
    return {chunks[row].document for row in rows}


def notes_on_questions(measured: int, carried: int) -> list[str]:
    """Return a sentence where questions take no part in recall."""
    if measured == carried:
        return []
    return [
        f"{carried - measured} of {carried} questions are of documents that runs may not find "
        "(rag.principal, rag.filter); recall is measured without them."
    ]


def notes_on_judgements(judged: RetrievalSet | None, measured: RetrievalSet | None) -> list[str]:
    """Return a sentence where judgements take no part in nDCG and recall.

    Args: judged: by the folder. measured: of what runs may find.
    """
    if judged is None or measured is None:
        return []
    every, left = (sum(len(gains) for gains in s.judged.values()) for s in (judged, measured))
    if every == left:
        return []
    return [
        f"{every - left} of {every} judgements are of documents that runs may not find "
        "(rag.principal, rag.filter), and are not counted; so "
        f"{len(judged.queries) - len(measured.queries)} of {len(judged.queries)} judged queries "
        "are left out, which nothing else answers."
    ]


def notes_on(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Return sentences on what the report must not keep quiet about."""
    cut_off = encoder.num_cut(texts)
    if not cut_off:
        return []
    return [
        f"{cut_off} of {len(texts)} chunks are longer than the encoder reads; dense search sees "
        "only their beginnings (lower rag.chunk_words)."
    ]
