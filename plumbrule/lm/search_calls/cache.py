"""A retriever that remembers what it was asked, within a bound on memory.

An index is frozen, so a query has one answer for the whole run. Policies in training ask the same
things again and again: K responses to one prompt, and every epoch over the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.protocols import Passage, Retriever

PASSAGE_BYTES = 400
"""What a passage takes beside its letters, about: six objects and a place in a list."""


class CachedRetriever:
    """A `Retriever` that asks another one, once for each distinct query of a batch.

    Args: megabytes: of passages, at most, 10^6 bytes each; 0: nothing is remembered.
    """

    def __init__(self, retriever: Retriever, megabytes: int):
        self._retriever, self._most_bytes = retriever, megabytes * 10**6
        self._known: dict[tuple[str, int], list[Passage]] = {}
        self.num_bytes = 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return up to k passages per query, best first."""
        distinct = list(dict.fromkeys(queries))
        found = {q: self._known.pop((q, k)) for q in distinct if (q, k) in self._known}
        for query, passages in found.items():
            self._known[query, k] = passages  # the newest again
        fresh = [query for query in distinct if query not in found]
        if fresh:
            for query, passages in zip(fresh, self._retriever.search(fresh, k), strict=True):
                found[query] = passages
                self._keep((query, k), passages)
        return [found[query] for query in queries]

    def _keep(self, key: tuple[str, int], passages: list[Passage]) -> None:
        size = bytes_of(key, passages)
        if size > self._most_bytes:
            return
        self._known[key] = passages
        self.num_bytes += size
        while self.num_bytes > self._most_bytes:
            oldest = next(iter(self._known))
            self.num_bytes -= bytes_of(oldest, self._known.pop(oldest))


def bytes_of(key: tuple[str, int], passages: Sequence[Passage]) -> int:
    """Return about what an answer takes in memory."""
    texts = sum(len(p.text) + len(p.id) + len(p.document) for p in passages)
    return 4 * (texts + len(key[0])) + PASSAGE_BYTES * (len(passages) + 1)
