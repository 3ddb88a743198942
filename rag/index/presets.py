"""Types of FAISS index by name: a factory string each, with what it needs at build and at search.

    name     factory for n vectors of d numbers   bytes a vector   for
    sq8      SQ8                                  d                a quarter of the memory
    sqfp16   SQfp16                               2d               half the memory
    hnsw     HNSW32                               4d + 256         single queries
    ivf      IVF<lists>_HNSW32,Flat               4d + 8           quick to build
    ivf_pq   IVF<lists>_HNSW32,PQ<d/4>x4fs        d/8 + 8          large batches, least memory
    factory  rag.dense_factory                    as FAISS documents it

Every one of them is approximate. What it nominates is scored again by the stored vectors
(`approximate.py`), which lie beside it in 4d bytes a vector, on disk unless they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from plumbrule.errors import ConfigError
from rag.index.dense import NO_BLAS_BELOW, import_faiss

FAISS_BLAS_BELOW = 20
"""FAISS's own choice: k-means is several times as fast with BLAS, and nothing is compared there."""


class Preset(NamedTuple):
    """How a type of index is made and searched.

    factory: from (number of vectors, dimensions) to FAISS's factory string. effort: lists that a
    query visits (IVF), or candidates that it keeps (HNSW); None: the type has no such setting.
    nominated: rows scored again per passage that is asked for.
    """

    factory: Callable[[int, int], str]
    effort: int | None
    nominated: int


PRESETS = {
    "sq8": Preset(lambda n, d: "SQ8", None, 2),
    "sqfp16": Preset(lambda n, d: "SQfp16", None, 2),
    "hnsw": Preset(lambda n, d: "HNSW32", 96, 1),
    "ivf": Preset(lambda n, d: f"IVF{lists(n)}_HNSW32,Flat", 24, 1),
    "ivf_pq": Preset(lambda n, d: f"IVF{lists(n)}_HNSW32,PQ{codes(d)}x4fs", 32, 20),
}
DEFAULT_NOMINATED = 4
"""Of `factory`, and of a plug-in's type."""


def lists(number: int) -> int:
    """Return how many inverted lists `number` vectors get: about 4 sqrt(n), 39 vectors each."""
    return max(1, min(int(4 * math.sqrt(number)), number // 39))


def codes(dimensions: int) -> int:
    """Return into how many parts a product quantiser cuts a vector: of 4 numbers, or the fewest
    more that divide it.
    """
    return next(part for part in range(max(dimensions // 4, 1), 0, -1) if dimensions % part == 0)


def sq8(vectors: np.ndarray) -> Any:
    """Keep each number as 8 bits."""
    return from_preset("sq8", vectors)


def sqfp16(vectors: np.ndarray) -> Any:
    """Keep each number as float16."""
    return from_preset("sqfp16", vectors)


def hnsw(vectors: np.ndarray) -> Any:
    """Link each vector to its neighbours, and walk along the links."""
    return from_preset("hnsw", vectors)


def ivf(vectors: np.ndarray) -> Any:
    """Compare with the vectors of the nearest lists."""
    return from_preset("ivf", vectors)


def ivf_pq(vectors: np.ndarray) -> Any:
    """Compare with 4-bit product codes of the nearest lists."""
    return from_preset("ivf_pq", vectors)


def from_preset(name: str, vectors: np.ndarray) -> Any:
    """Return a preset's index, trained and empty."""
    preset = PRESETS[name]
    return from_factory(preset.factory(*vectors.shape), vectors, preset.effort)


def from_factory(text: str, vectors: np.ndarray, effort: int | None = None) -> Any:
    """Return the index of a factory string, trained on vectors (n, d) float32, and empty.

    Raises: ConfigError: FAISS does not know the string, or can't train it on so few vectors.
    """
    faiss = import_faiss()
    try:
        index = faiss.index_factory(vectors.shape[1], text, faiss.METRIC_INNER_PRODUCT)
        faiss.cvar.distance_compute_blas_threshold = FAISS_BLAS_BELOW
        try:
            if not index.is_trained:
                index.train(np.ascontiguousarray(vectors))
        finally:
            faiss.cvar.distance_compute_blas_threshold = NO_BLAS_BELOW
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise ConfigError(
            f"the dense index (={text}, by rag.dense_index or rag.dense_factory) must be one that "
            f"FAISS knows and can train on {len(vectors)} vectors of {vectors.shape[1]} numbers; "
            f"take another, or fewer rag.shards. FAISS says: {reason}."
        ) from None
    if effort is not None:
        set_effort(index, effort)
    return index


def set_effort(index: Any, effort: int) -> None:
    """Set how many lists a query visits (IVF) or how many candidates it keeps (HNSW).

    Raises: ConfigError: a type of index that has neither.
    """
    faiss = import_faiss()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform | faiss.IndexIDMap2):
        inner = faiss.downcast_index(inner.index)
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = min(effort, inner.nlist)
    elif isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = effort
    else:
        raise ConfigError(
            f"rag.search_effort (={effort}) must be null for {type(inner).__name__}, which "
            "compares every vector; leave it out."
        )
