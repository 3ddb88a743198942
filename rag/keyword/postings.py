"""Which chunks hold a term, and how often: what keyword search reads, and no score.

bm25s multiplies each count with its weight when it indexes, so one more passage changes every
number of the index. Here counts alone are kept, and weights are computed for the terms of a query
when it is asked (`scoring.py`). A place is a chunk's row within its segment.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rag.keyword.words import words_of

BLOCK = 20_000
"""Texts that are stemmed together; bounds memory, changes no result."""
TERMS = "terms.json"
ARRAYS = ("starts", "places", "counts")


class Postings(NamedTuple):
    """The chunks that hold a term."""

    places: np.ndarray
    """(m,) int, rising."""
    counts: np.ndarray
    """(m,) int: how often each holds it, at least once."""


NONE = Postings(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))


class TermCounts(Protocol):
    """The term counts of a segment."""

    def of(self, term: str) -> Postings:
        """Return the chunks that hold a term; empty where none does."""


class FrozenTermCounts:
    """Term counts as arrays: those of term i are `places[starts[i]:starts[i + 1]]`."""

    def __init__(
        self, terms: Sequence[str], starts: np.ndarray, places: np.ndarray, counts: np.ndarray
    ):
        self._terms, self._numbers = list(terms), {term: i for i, term in enumerate(terms)}
        self._starts, self._places, self._counts = starts, places, counts

    @classmethod
    def build(cls, texts: Sequence[str]) -> tuple[FrozenTermCounts, np.ndarray]:
        """Return the counts of texts, whose places are theirs in the sequence, and their lengths.

        Lengths are in terms, (n,) int32.
        """
        numbers: dict[str, int] = {}
        parts: list[np.ndarray] = [np.empty((3, 0), dtype=np.int32)]
        lengths = np.zeros(len(texts), dtype=np.int32)
        for start in range(0, len(texts), BLOCK):
            found: list[tuple[int, int, int]] = []  # term, place, count
            for place, words in enumerate(words_of(texts[start : start + BLOCK]), start):
                lengths[place] = len(words)
                for word, count in Counter(words).items():
                    found.append((numbers.setdefault(word, len(numbers)), place, count))
            parts.append(np.array(found, dtype=np.int32).reshape(-1, 3).T)
        names = sorted(numbers)
        rank = np.empty(len(names), dtype=np.int32)
        rank[[numbers[name] for name in names]] = np.arange(len(names), dtype=np.int32)
        number, places, counts = np.concatenate(parts, axis=1)
        terms = rank[number]
        order = np.argsort(terms, kind="stable")  # places rise already
        starts = np.searchsorted(terms[order], np.arange(len(names) + 1)).astype(np.int64)
        return cls(names, starts, places[order], counts[order]), lengths

    def of(self, term: str) -> Postings:
        """Return the chunks that hold a term; empty where none does."""
        number = self._numbers.get(term)
        if number is None:
            return NONE
        start, end = self._starts[number], self._starts[number + 1]
        return Postings(self._places[start:end], self._counts[start:end])

    def save(self, folder: Path) -> None:
        """Write them into `folder`."""
        (folder / TERMS).write_text(json.dumps(self._terms), encoding="utf-8")
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, f"_{name}"), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> FrozenTermCounts:
        """Return what `save` wrote; the arrays are mapped into memory and not read."""
        terms = json.loads((folder / TERMS).read_text(encoding="utf-8"))
        arrays = [
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS
        ]
        return cls(terms, *arrays)


class GrowingTermCounts:
    """Term counts to which chunks are added one by one."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._places: dict[str, list[int]] = {}
        self._counts: dict[str, list[int]] = {}

    def add(self, texts: Iterable[str]) -> None:
        """Count texts, which take the next places."""
        for words in words_of(list(texts)):
            for word, count in Counter(words).items():
                self._places.setdefault(word, []).append(len(self.lengths))
                self._counts.setdefault(word, []).append(count)
            self.lengths.append(len(words))

    def of(self, term: str) -> Postings:
        """Return the chunks that hold a term; empty where none does."""
        if term not in self._places:
            return NONE
        found = (self._places[term], self._counts[term])
        return Postings(*(np.array(column, dtype=np.int32) for column in found))
