"""An opened index: queries in, passages out.

`open_index` is what feedback, PPO and eval call, through `Inputs.retriever`. What it opens is
frozen and complete: passages, both indexes and the encoder lie in the artifact. Whatever does not
fit together is refused here, by name, and not by a wrong answer later.

The same query gives the same passages whether it is asked alone, in a batch or twice in a batch
(a query that repeats is searched once).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.config import require_choice, require_range
from plumbrule.errors import ArtifactError
from plumbrule.protocols import Passage, Retriever
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, sha256
from plumbrule.store.json_files import read_json
from rag.chunks import Chunk, read_chunks
from rag.index.bm25 import KeywordIndex
from rag.index.dense import VectorIndex
from rag.index.encoders import Encoder, load_encoder
from rag.index.protocol import Hits, SearchIndex
from rag.index.ranking import DENSE_WEIGHT, POOL, fuse

VECTORS, PASSAGES, KEYWORDS, ENCODER, FINGERPRINT = (
    "index.faiss",
    "passages.jsonl",
    "bm25",
    "encoder",
    "fingerprint.json",
)
METHODS = ("bm25", "dense", "hybrid")
BLOCK = 1024
"""Queries searched together; bounds memory, changes no result."""


@dataclass(frozen=True)
class DenseIndex:
    """Ranks texts by the cosine of encoded query and passage."""

    vectors: SearchIndex[np.ndarray]
    encoder: Encoder

    def search(self, queries: Sequence[str], depth: int) -> list[Hits]:
        """Return each query's best `depth` passages, as far as the index finds them."""
        return self.vectors.search(self.encoder.encode_queries(queries), depth)


@dataclass(frozen=True)
class HybridIndex:
    """Ranks texts by the convex sum of both (`rag/index/ranking.py`)."""

    dense: SearchIndex[Sequence[str]]
    keywords: SearchIndex[Sequence[str]]

    def search(self, queries: Sequence[str], depth: int) -> list[Hits]:
        """Return the best `depth` passages of each query's two pools."""
        pool = max(POOL, depth)
        pairs = zip(
            self.dense.search(queries, pool), self.keywords.search(queries, pool), strict=True
        )
        return [fuse(dense, keyword, DENSE_WEIGHT, depth) for dense, keyword in pairs]


@dataclass(frozen=True)
class IndexRetriever:
    """A Retriever over frozen passages."""

    chunks: Sequence[Chunk]
    index: SearchIndex[Sequence[str]]

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return up to k passages per query, best first; ties by passage.

        A query that shares nothing with any passage finds fewer than k, or none.
        Raises: ConfigError: k below 1.
        """
        require_range("retrieval.num_passages", k, 1, unit="passages")
        distinct = list(dict.fromkeys(queries))
        found: dict[str, list[Passage]] = {}
        for start in range(0, len(distinct), BLOCK):
            block = distinct[start : start + BLOCK]
            for query, hits in zip(block, self.index.search(block, k), strict=True):
                found[query] = [
                    _passage(self.chunks[row], float(score))
                    for row, score in zip(hits.rows, hits.scores, strict=True)
                ]
        return [list(found[query]) for query in queries]


@dataclass(frozen=True)
class OpenedIndex:
    """An index artifact, of which a retriever reads what its method needs.

    device: of a neural encoder; auto is cuda if there is one.
    """

    artifact: Artifact
    device: str = "auto"

    def retriever(self, method: str) -> Retriever:
        """Return the retriever that ranks by `method`: bm25, dense or hybrid.

        Raises: ConfigError: an unknown method, or not exactly one FAISS. ArtifactError: files that
            are missing, damaged or don't belong together.
        """
        require_choice("retrieval.method", method, METHODS)
        return open_retriever(self.artifact, method, self.device)


def open_index(artifact: Artifact, runtime: RuntimeConfig) -> OpenedIndex:
    """Return an index artifact, opened for the runtime's device; nothing is read yet."""
    return OpenedIndex(artifact, runtime.device)


def open_retriever(artifact: Artifact, method: str, device: str) -> IndexRetriever:
    """Return the retriever of an index artifact, as `OpenedIndex.retriever` says."""
    about = read_fingerprint(artifact.file(FINGERPRINT))
    path = artifact.file(PASSAGES)
    if sha256(path) != about["passages_sha256"]:
        raise ArtifactError(
            f"{path} is not what {FINGERPRINT} was written for; build the index again."
        )
    chunks = read_chunks(path)
    if method == "bm25":
        return IndexRetriever(chunks, _keywords(artifact, chunks))
    dense = _dense(artifact, chunks, about["encoder"], device)
    if method == "dense":
        return IndexRetriever(chunks, dense)
    return IndexRetriever(chunks, HybridIndex(dense, _keywords(artifact, chunks)))


def read_fingerprint(path: Path) -> dict[str, Any]:
    """Return what `fingerprint.json` says of an index.

    Raises: ArtifactError: it is damaged.
    """
    try:
        about = read_json(path)
        return {"passages_sha256": about["passages_sha256"], "encoder": dict(about["encoder"])}
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); build the index again.") from None


def _keywords(artifact: Artifact, chunks: Sequence[Chunk]) -> KeywordIndex:
    keywords = KeywordIndex.load(artifact.file(KEYWORDS))
    _require_count(artifact.path / KEYWORDS, len(keywords), len(chunks))
    return keywords


def _dense(
    artifact: Artifact, chunks: Sequence[Chunk], about: dict[str, Any], device: str
) -> DenseIndex:
    vectors = VectorIndex.load(artifact.file(VECTORS))
    _require_count(artifact.path / VECTORS, len(vectors), len(chunks))
    encoder = load_encoder(about["kind"], artifact.file(ENCODER), device)
    if vectors.dimensions != encoder.dimensions:
        raise ArtifactError(
            f"{artifact.path / VECTORS} (={vectors.dimensions} dimensions) must be searched with "
            f"the encoder that made it; {about['name']} gives {encoder.dimensions} dimensions: "
            "build the index again."
        )
    return DenseIndex(vectors, encoder)


def _require_count(path: Path, count: int, passages: int) -> None:
    if count != passages:
        raise ArtifactError(
            f"{path} (={count} entries) must have one per passage (={passages}); "
            "build the index again."
        )


def _passage(chunk: Chunk, score: float) -> Passage:
    return Passage(chunk.id, chunk.text, score, chunk.document, chunk.start, chunk.end)
