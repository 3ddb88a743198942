"""Stage `index`: documents in, a frozen store of passages out.

1 read documents, 2 cut chunks, 3 encode, 4 write both indexes, 5 write the fingerprint, 6 open what
was written and measure it.

The artifact holds `passages.jsonl` (a chunk's line is its row in both indexes), `index.faiss`,
`bm25/`, `encoder/` and `fingerprint.json`. None of them holds a time or a path of the machine: the
same documents and config give the same bytes, on the same library versions. An attempt that was
killed is built again from the start.

Metrics: `rag/documents`, `rag/chunks`, `rag/build_seconds` and, where documents carry questions,
`rag/recall_at_1`, `rag/recall_at_5` and `rag/mrr` of the hybrid, and the same with `_bm25` and
`_dense` at the end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from plumbrule.data.records import Document, read_records
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, sha256
from plumbrule.store.file_names import NOTES, RECORDS
from plumbrule.store.fingerprint import digest
from plumbrule.store.json_files import write_json
from rag.chunks import cut, write_chunks
from rag.config import IndexConfig
from rag.index.bm25 import SETTINGS, KeywordIndex
from rag.index.dense import VectorIndex, import_faiss
from rag.index.encoders import Encoder, make_encoder
from rag.options import DENSE_INDEXES
from rag.recall import evenly_spaced, measure, questions_of
from rag.retriever import (
    ENCODER,
    FINGERPRINT,
    KEYWORDS,
    METHODS,
    PASSAGES,
    VECTORS,
    open_index,
)


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
    documents = read_records(Document, inputs["documents"].file(RECORDS))
    questions = evenly_spaced(questions_of(documents), config.num_queries)
    # 2
    chunks = cut(documents, config.chunk_words, config.overlap_words, config.readers)
    write_chunks(chunks, out / PASSAGES)
    texts = [chunk.searched for chunk in chunks]
    # 3
    kind, encoder = make_encoder(
        config.encoder, config.encoder_revision, config.dimensions, texts, runtime.device
    )
    vectors = encode(encoder, texts, config.batch_size, tracker)
    # 4
    for folder in (KEYWORDS, ENCODER):
        shutil.rmtree(out / folder, ignore_errors=True)
    VectorIndex.build(vectors, DENSE_INDEXES[config.dense_index]).save(out / VECTORS)
    KeywordIndex.build(texts).save(out / KEYWORDS)
    encoder.save(out / ENCODER)
    # 5
    about = {
        "encoder": {
            "kind": kind,
            "name": Path(config.encoder).name if Path(config.encoder).is_dir() else config.encoder,
            "revision": config.encoder_revision,
            "content": content_of(out / ENCODER),
            "dimensions": encoder.dimensions,
        },
        "dense_index": config.dense_index,
        "keywords": SETTINGS,
        "chunking": {"chunk_words": config.chunk_words, "overlap_words": config.overlap_words},
        "documents": len(documents),
        "chunks": len(chunks),
        "passages_sha256": sha256(out / PASSAGES),
    }
    write_json(out / FINGERPRINT, about)
    build_seconds = time.perf_counter() - started
    notes = notes_on(encoder, texts)
    write_json(out / NOTES, notes)
    # 6
    metrics = {
        "rag/documents": float(len(documents)),
        "rag/chunks": float(len(chunks)),
        "rag/build_seconds": build_seconds,
    }
    for method in METHODS if questions else ():
        retriever = open_index(Artifact.of(out, "index"), runtime).retriever(method)
        suffix = "" if method == "hybrid" else f"_{method}"
        found = measure(retriever, questions)
        metrics |= {f"rag/{name}{suffix}": value for name, value in found.items()}
    return metrics


def encode(encoder: Encoder, texts: Sequence[str], batch_size: int, tracker: Tracker) -> np.ndarray:
    """Return the passages' vectors, (n, dimensions) float32.

    Texts of like length share a batch, so that little of it is padding; equal lengths keep order.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.empty((len(texts), encoder.dimensions), dtype=np.float32)
    with tracker.progress(len(texts), "encoding passages", "passages") as line:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors[rows] = encoder.encode_passages([texts[row] for row in rows])
            line.advance(len(rows))
    return vectors


def content_of(folder: Path) -> str:
    """Return a digest of the names and bytes of the files under `folder`, 16 hex digits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): sha256(path) for path in files})


def notes_on(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Return sentences on what the report must not keep quiet about."""
    cut_off = encoder.num_cut(texts)
    if not cut_off:
        return []
    return [
        f"{cut_off} of {len(texts)} chunks are longer than the encoder reads; dense search sees "
        "only their beginnings (lower rag.chunk_words)."
    ]
