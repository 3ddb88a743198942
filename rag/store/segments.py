"""Segments: the frozen parts of what is searched in a live store, and the tail that grows.

A segment indexes the chunks of a range of numbers that lived when it was made: term counts, vectors
as they are, and a dense index of the store's type. It never changes; what is removed later is left
out when it is searched. The tail holds the chunks behind the last segment, exactly and in memory.

A dense index finds the nearest vectors whoever may read them. Those that may not be found are
filtered out of more and more of its results until enough are left. Where few may be found at all,
or that does not come to an end soon, the vectors that may are compared one by one: so a filter
loses nothing, whatever the type of index. One that is approximate only nominates: it is asked for
`NOMINATED` times as many, and those are scored by their vectors, since a quantiser's scores would
not compare with those of other segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rag.index.dense import VectorIndex, flat
from rag.index.protocol import Hits
from rag.index.ranking import best
from rag.keyword.postings import FrozenTermCounts, GrowingTermCounts, TermCounts
from rag.store.database import ChunkRow

NUMBERS, RULES, LENGTHS, RAW, DENSE = (
    "numbers.npy",
    "rules.npy",
    "lengths.npy",
    "vectors.npy",
    "dense.faiss",
)
APPROXIMATE_FROM = 10_000
"""Chunks: a smaller segment is searched exactly, whatever the store's type of index."""
FEW = 0.25
"""Share of a segment that may be found, below which the vectors are compared one by one."""
NOMINATED = 4
"""Times the depth that an approximate index is asked for at first."""
WIDEST = 16
"""Times the depth that a dense index is asked for before that."""


@dataclass
class Segment:
    """Chunks of one range of numbers, in their order.

    numbers: (n,) int64. rules: (n,) int32, of access. lengths: (n,) int32, in terms. vectors: (n,
    d) float32, mapped into memory. exact: whether `dense` is. alive: (n,) bool, True: not removed.
    """

    numbers: np.ndarray
    rules: np.ndarray
    lengths: np.ndarray
    terms: TermCounts
    vectors: np.ndarray
    dense: VectorIndex
    exact: bool
    alive: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.alive = np.ones(len(self.numbers), dtype=bool)

    def __len__(self) -> int:
        """Return the number of chunks, removed ones too."""
        return len(self.numbers)

    def remove(self, numbers: np.ndarray) -> None:
        """Mark chunks as removed; numbers of other segments are left alone."""
        places = np.searchsorted(self.numbers, numbers)
        inside = places < len(self.numbers)
        places, numbers = places[inside], numbers[inside]
        self.alive[places[self.numbers[places] == numbers]] = False

    def search(
        self,
        vectors: np.ndarray,
        depth: int,
        may: np.ndarray,
        exactly: bool = False,
        above: float = -np.inf,
    ) -> list[Hits]:
        """Return each query's nearest `depth` chunks among those that may be found, by number.

        Args: vectors: (q, d) float32. may: (n,) bool, True: may be found. exactly: whether each
            vector that may be found is compared, whatever the type of index. above: score that
            whoever asks drops chunks below; where an approximate index nominates too few above it,
            others may lie in what it did not visit, so every vector is compared.
        """
        passing = int(np.count_nonzero(may))
        total = len(self)
        if passing == 0:
            return [_no_hits() for _ in vectors]
        if passing < FEW * total or (exactly and not self.exact):
            return self._one_by_one(vectors, depth, may)
        wanted = min(depth, passing)
        nominated = depth if self.exact else NOMINATED * depth
        width = min(nominated + min(total - passing, depth), total)
        asked = np.any(vectors != 0, axis=1)
        while True:
            found = [_kept(hits, may) for hits in self.dense.search(vectors, width)]
            lacking = [
                len(h.rows) < wanted for h, is_asked in zip(found, asked, strict=True) if is_asked
            ]
            if not any(lacking):
                break
            if width >= min(WIDEST * depth, total):
                return self._one_by_one(vectors, depth, may)
            width = min(4 * width, total)
        if not self.exact:
            pairs = zip(found, vectors, strict=True)
            found = [self._scored(hits.rows, vector, depth) for hits, vector in pairs]
            above_it = [np.count_nonzero(hits.scores > above) for hits in found]
            if any(n < wanted for n, is_asked in zip(above_it, asked, strict=True) if is_asked):
                return self._one_by_one(vectors, depth, may)
        return [
            Hits(self.numbers[hits.rows[:depth]], hits.scores[:depth], hits.floor) for hits in found
        ]

    def _scored(self, rows: np.ndarray, vector: np.ndarray, depth: int) -> Hits:
        """Return the best `depth` of some rows by their vectors."""
        if not len(rows):
            return _no_hits()
        rows = np.sort(rows)
        index = VectorIndex.build(np.ascontiguousarray(self.vectors[rows]))
        (hits,) = index.search(vector[None], depth)
        return Hits(rows[hits.rows], hits.scores, hits.floor)

    def _one_by_one(self, vectors: np.ndarray, depth: int, may: np.ndarray) -> list[Hits]:
        """Compare every vector that may be found."""
        numbers = self.numbers[may]
        exact = VectorIndex.build(np.ascontiguousarray(self.vectors[may]))
        return [
            Hits(numbers[hits.rows], hits.scores, hits.floor)
            for hits in exact.search(vectors, depth)
        ]


class Tail(Segment):
    """The segment that grows: exact, in memory. Args: dimensions: of a vector."""

    def __init__(self, dimensions: int):
        self.counts = GrowingTermCounts()
        empty = np.empty(0, dtype=np.int32)
        none = np.empty((0, dimensions), dtype=np.float32)
        super().__init__(
            np.empty(0, dtype=np.int64),
            empty,
            empty,
            self.counts,
            none,
            VectorIndex.build(none),
            True,
        )

    def add(self, rows: Sequence[ChunkRow]) -> None:
        """Add chunks, whose numbers are above all that are there."""
        if not rows:
            return
        self.counts.add(row.chunk.searched for row in rows)
        self.numbers = np.append(self.numbers, np.array([r.number for r in rows], dtype=np.int64))
        self.rules = np.append(self.rules, np.array([r.rule for r in rows], dtype=np.int32))
        self.lengths = np.array(self.counts.lengths, dtype=np.int32)
        self.alive = np.append(self.alive, np.ones(len(rows), dtype=bool))
        self.vectors = np.concatenate([self.vectors, vectors_of(rows)])
        self.dense = VectorIndex.build(self.vectors)


def vectors_of(rows: Sequence[ChunkRow]) -> np.ndarray:
    """Return the vectors of chunks, (n, d) float32."""
    return np.stack([np.frombuffer(row.vector, dtype="<f4") for row in rows]).astype(np.float32)


def build_segment(
    rows: Iterable[ChunkRow],
    number: int,
    dimensions: int,
    make: Callable[[np.ndarray], Any] | None,
) -> Segment:
    """Return the segment of chunks, by number. They are read one by one and not held together.

    Args: number: of them, at least 1. dimensions: of a vector. make: of an approximate index, as
    `VectorIndex.build`; None: an exact one.
    """
    numbers, rules = np.empty(number, dtype=np.int64), np.empty(number, dtype=np.int32)
    vectors = np.empty((number, dimensions), dtype=np.float32)
    texts = []
    for place, row in enumerate(rows):
        numbers[place], rules[place] = row.number, row.rule
        vectors[place] = np.frombuffer(row.vector, dtype="<f4")
        texts.append(row.chunk.searched)
    terms, lengths = FrozenTermCounts.build(texts)
    dense = VectorIndex.build(vectors, flat if make is None else make)
    return Segment(numbers, rules, lengths, terms, vectors, dense, make is None)


def save_segment(segment: Segment, folder: Path) -> None:
    """Write a segment that `build_segment` made into a folder that is there."""
    for name, array in (
        (NUMBERS, segment.numbers),
        (RULES, segment.rules),
        (LENGTHS, segment.lengths),
        (RAW, segment.vectors),
    ):
        np.save(folder / name, array, allow_pickle=False)
    assert isinstance(segment.terms, FrozenTermCounts)
    segment.terms.save(folder)
    segment.dense.save(folder / DENSE)


def load_segment(folder: Path, approximate: bool) -> Segment:
    """Return what `save_segment` wrote; vectors, counts and the dense index's codes are mapped into
    memory, as far as FAISS can map those of its type.

    Args: approximate: whether its dense index is.
    Raises: OSError, ValueError, ArtifactError: a file is missing or damaged.
    """
    numbers, rules, lengths = (
        np.load(folder / name, allow_pickle=False) for name in (NUMBERS, RULES, LENGTHS)
    )
    raw = np.load(folder / RAW, mmap_mode="r", allow_pickle=False)
    dense = VectorIndex.load(folder / DENSE, (folder / DENSE).stat().st_size)
    terms = FrozenTermCounts.load(folder)
    return Segment(numbers, rules, lengths, terms, raw, dense, not approximate)


def merged(found: Sequence[Hits], depth: int) -> Hits:
    """Return the best `depth` of what one query found in several segments."""
    rows = np.concatenate([hits.rows for hits in found])
    scores = np.concatenate([hits.scores for hits in found])
    numbers, top = best(rows, scores, depth)
    return Hits(numbers, top, floor=float(top[-1]) if len(top) else 0.0)


def _kept(hits: Hits, may: np.ndarray) -> Hits:
    kept = may[hits.rows]
    return Hits(hits.rows[kept], hits.scores[kept], hits.floor)


def _no_hits() -> Hits:
    return Hits(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), floor=0.0)
