"""Who may read what: a search is made for a principal, and a chunk without a rule is unreadable.

A chunk's rule is its `readers`, set when it is ingested: names of principals or of groups, or
`EVERYONE`. A principal reads a chunk if it, or a group that it belongs to, is among the readers.

Every path by which text, or a number that depends on text, leaves the index calls `readable` for
itself: search, counts, errors about fields, neighbours, summaries, re-ranking, the cache, citations
and statistics. None relies on another having done so (`tests/rag/test_access.py` takes each check
away in turn and sees a leak).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from plumbrule.config import require
from rag.chunks import EVERYONE, Chunk

KEPT_MASKS = 256
"""Masks of principals that are kept; beyond it the oldest goes."""


@dataclass(frozen=True)
class Principal:
    """Whom a search is made for.

    name: "" is a principal that reads only what everyone may. groups: whose rules hold for it, too.
    """

    name: str = ""
    groups: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", frozenset(self.groups))
        for one in (self.name, *sorted(self.groups)):
            rule, fix = "name one principal or group", f'"{EVERYONE}" stands in rules only'
            require(one != EVERYONE, "principal", one, rule, fix)

    @property
    def identities(self) -> frozenset[str]:
        """Return the names that a rule may hold for this principal to read."""
        return frozenset({EVERYONE, self.name, *self.groups}) - {""}


ANYONE = Principal()
"""Reads only what everyone may read."""


def principal_of(names: Sequence[str], setting: str = "principal") -> Principal:
    """Return the principal of a name and, behind it, its groups; of none, `ANYONE`.

    Raises: ConfigError: a blank name, or `EVERYONE`.
    """
    rule, fix = "be a name, and names of its groups behind it", "leave blank ones out"
    require(all(name.strip() for name in names), setting, list(names), rule, fix)
    return Principal(names[0], frozenset(names[1:])) if names else ANYONE


class AccessRules:
    """The rules of rows 0..n-1. Chunks share few distinct rules, so a mask costs one look-up a row.

    Args: readers: of each row.
    """

    def __init__(self, readers: Iterable[Sequence[str]]):
        codes: dict[frozenset[str], int] = {}
        of_rows = [codes.setdefault(frozenset(rule), len(codes)) for rule in readers]
        self._codes = np.array(of_rows, dtype=np.int32)
        self._rules = list(codes)
        self._masks: dict[frozenset[str], np.ndarray] = {}

    @classmethod
    def of(cls, chunks: Iterable[Chunk]) -> AccessRules:
        """Return the rules of chunks, whose places are their rows."""
        return cls(chunk.readers for chunk in chunks)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._codes)

    def mask(self, principal: Principal) -> np.ndarray:
        """Return (n,) bool, True = the principal may read the row. Not to be written to."""
        names = principal.identities
        if names not in self._masks:
            if len(self._masks) >= KEPT_MASKS:
                del self._masks[next(iter(self._masks))]
            table = np.array([bool(rule & names) for rule in self._rules], dtype=bool)
            mask = table[self._codes] if len(table) else np.zeros(0, dtype=bool)
            mask.setflags(write=False)
            self._masks[names] = mask
        return self._masks[names]


def readable(rules: AccessRules, principal: Principal) -> np.ndarray:
    """Return (n,) bool, True = the principal may read the row: the check that every path calls."""
    return rules.mask(principal)
