"""From utilities to a ranking: equal answers, ties, and how far noise turned the order round.

Pure functions on small lists; a ranking has ranks from 1 (best), without holes, equal = tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations


def first_of_each(texts: Sequence[str]) -> list[int]:
    """Return, in order, the index at which each distinct text occurs first."""
    seen: dict[str, int] = {}
    for i, text in enumerate(texts):
        seen.setdefault(text, i)
    return list(seen.values())


def ranks_of(utilities: Sequence[float], tie_width: float = 0.0) -> tuple[int, ...]:
    """Return the rank of each answer, the highest utility at rank 1.

    An answer shares the rank of the best answer above it that has that rank where it lies at most
    `tie_width` below it. So no rank is wider than `tie_width`, although "close to" alone is not
    transitive; at width 0 only equal utilities tie.
    """
    ranks = [0] * len(utilities)
    rank, best = 0, 0.0
    for i in sorted(range(len(utilities)), key=lambda i: -utilities[i]):
        if rank == 0 or best - utilities[i] > tie_width:
            rank, best = rank + 1, utilities[i]
        ranks[i] = rank
    return tuple(ranks)


def reversed_ranking(ranks: Sequence[int]) -> tuple[int, ...]:
    """Return the ranks with every strict order turned round; ties stay ties."""
    return tuple(max(ranks) + 1 - rank for rank in ranks)


def count_ties(ranks: Sequence[int]) -> tuple[int, int]:
    """Return (tied pairs, all pairs) of one ranking."""
    pairs = list(combinations(ranks, 2))
    return sum(a == b for a, b in pairs), len(pairs)


def count_agreement(utilities: Sequence[float], ranks: Sequence[int]) -> tuple[int, int]:
    """Return (pairs that `ranks` order as `utilities` do, pairs that both order strictly).

    Ties on either side are not counted: they give a reward model nothing to learn.
    """
    same = compared = 0
    for i, j in combinations(range(len(ranks)), 2):
        if utilities[i] != utilities[j] and ranks[i] != ranks[j]:
            compared += 1
            same += (utilities[i] > utilities[j]) == (ranks[i] < ranks[j])
    return same, compared


def count_alike(ranks: Sequence[int], others: Sequence[int]) -> tuple[int, int]:
    """Return (pairs of answers that two rankings judge alike, ties included, all pairs)."""
    pairs = list(combinations(range(len(ranks)), 2))
    same = sum(_sign(ranks[i] - ranks[j]) == _sign(others[i] - others[j]) for i, j in pairs)
    return same, len(pairs)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
