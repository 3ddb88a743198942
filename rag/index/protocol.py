"""What every index answers, exact or approximate, over words, vectors or both.

An exact index finds the best passages. An approximate one (HNSW, IVF) may miss some, and FAISS
fills up what it did not find with row -1 and a score of no meaning. Rows of -1 and scores that are
not finite never get into `Hits`: an index makes them with `best` (`ranking.py`), which drops both.
So a query may get fewer passages than it asks for, or none, from any index.
"""

from __future__ import annotations

from functools import cached_property
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


NOTHING = Hits(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), 0.0)


class Selection:
    """Which rows one search may find: those that its principal reads and its filter passes.

    Args: readable: (n,) bool, True = the principal may read the row. passes: (n,) bool, True = the
        filter passes it; None: there is no filter. No index ever finds a row that is not in
        `rows`, whatever `passes` says of it.
    """

    def __init__(self, readable: np.ndarray, passes: np.ndarray | None = None):
        self.readable = readable
        self.filtered = passes is not None
        self.mask = readable if passes is None else readable & passes
        self.count = int(np.count_nonzero(self.mask))

    @cached_property
    def rows(self) -> np.ndarray:
        """Return the selected rows, (count,) int64, rising."""
        return np.flatnonzero(self.mask)

    @property
    def whole(self) -> bool:
        """Return whether every row is selected."""
        return self.count == len(self.mask)

    def among_readable(self) -> Selection:
        """Return the selection among the readable rows alone, whose numbers then begin at 0."""
        passes = self.mask[self.readable] if self.filtered else None
        return Selection(np.ones(int(self.readable.sum()), dtype=bool), passes)

    def part(self, start: int, end: int) -> Selection:
        """Return the selection among rows start..end-1, whose numbers then begin at 0."""
        passes = self.mask[start:end] if self.filtered else None
        return Selection(self.readable[start:end], passes)


class SearchIndex(Protocol[Queries]):
    """A frozen index over passages 0..n-1. Queries: texts, or vectors (q, d) float32."""

    def search(
        self, queries: Queries, depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return at most `depth` selected passages for each query; `depth` is 1 or above.

        Args: selection: the rows that may be found; None: every row.
        """


class VectorSearch(SearchIndex[np.ndarray], Protocol):
    """A frozen index over vectors."""

    @property
    def dimensions(self) -> int:
        """Return the length of a vector."""

    def __len__(self) -> int:
        """Return the number of vectors."""
