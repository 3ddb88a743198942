"""What every index answers, exact or approximate, over words, vectors or both.

An exact index finds the best passages. An approximate one (HNSW, IVF) may miss some, and FAISS
fills up what it did not find with row -1 and a score of no meaning. Rows of -1 and scores that are
not finite never get into `Hits`: an index makes them with `best` (`ranking.py`), which drops both.
So a query may get fewer passages than it asks for, or none, from any index.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

import numpy as np

Queries = TypeVar("Queries", contravariant=True)


class Hits(NamedTuple):
    """What an index finds for one query, best first; equal scores in order of rows."""

    rows: np.ndarray
    """(m,) int64, 0 or above: the passages' places."""
    scores: np.ndarray
    """(m,) float, falling, finite."""
    floor: float
    """What a passage that is not among them does not exceed, as far as the index can tell."""


class SearchIndex(Protocol[Queries]):
    """A frozen index over passages 0..n-1. Queries: texts, or vectors (q, d) float32."""

    def search(self, queries: Queries, depth: int) -> list[Hits]:
        """Return at most `depth` passages for each query; `depth` is 1 or above."""
