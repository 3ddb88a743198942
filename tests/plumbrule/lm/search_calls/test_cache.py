"""What is remembered of searches: one question each, within a bound on bytes."""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.lm.search_calls.cache import CachedRetriever, bytes_of
from plumbrule.protocols import Passage


class Counts:
    """Finds a passage of a thousand letters for each query, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked.append(list(queries))
        return [[Passage(q, q[0] * 1000, 1.0, "d", 0, 1000)] * k for q in queries]


def test_each_query_is_asked_once() -> None:
    source = Counts()
    cached = CachedRetriever(source, 64)
    first = cached.search(["a", "b", "a"], 2)
    assert [p[0].text[0] for p in first] == ["a", "b", "a"]
    assert cached.search(["b", "c"], 2)[0] == first[1]
    cached.search(["b"], 3)  # another k is another question
    assert source.asked == [["a", "b"], ["c"], ["b"]]


def test_the_bound_holds_and_the_oldest_goes_first() -> None:
    source = Counts()
    cached = CachedRetriever(source, 1)
    one = bytes_of(("a000", 1), [Passage("a000", "a" * 1000, 1.0, "d", 0, 1000)])
    fits = 10**6 // one
    names = [f"a{i:03d}" for i in range(fits + 5)]
    for name in names:
        cached.search([name], 1)
        assert cached.num_bytes <= 10**6
    assert cached.num_bytes == fits * one
    source.asked.clear()
    cached.search([names[-1], names[0]], 1)
    assert source.asked == [[names[0]]]


def test_nothing_is_remembered_at_0() -> None:
    source = Counts()
    cached = CachedRetriever(source, 0)
    cached.search(["a"], 1)
    cached.search(["a", "a"], 1)
    assert source.asked == [["a"], ["a"]]
    assert cached.num_bytes == 0
