"""What was found is kept, for the same principal and the same question alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from rag.access import Principal

Found = TypeVar("Found")
KEPT_SEARCHES = 4096


class SearchCache(Generic[Found]):
    """Results of searches; the one that was asked for longest ago goes first.

    Args: most: results that are kept.
    """

    def __init__(self, most: int = KEPT_SEARCHES):
        self._most = most
        self._kept: OrderedDict[Hashable, Found] = OrderedDict()

    def get(self, principal: Principal, question: Hashable) -> Found | None:
        """Return what was kept for a principal's question; None: nothing was."""
        key = key_of(principal, question)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, principal: Principal, question: Hashable, found: Found) -> None:
        """Keep what a search for the principal found."""
        self._kept[key_of(principal, question)] = found
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


def key_of(principal: Principal, question: Hashable) -> Hashable:
    """Return what a result is kept under: all that decides what its principal may read, with it."""
    return principal.identities, question
