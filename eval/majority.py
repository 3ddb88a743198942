"""The commonest of several answers. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Majority(NamedTuple):
    """The commonest of n answers. place: of its first appearance. share: of the n that it is.
    tied: whether another is as common.
    """

    place: int
    share: float
    tied: bool


def majority(answers: Sequence[Hashable]) -> Majority:
    """Return the commonest of the answers; of several, the one that appears first.

    Answers count as equal where they are equal; normalise them before.
    Raises: ValueError: there are none.
    """
    if not answers:
        raise ValueError("answers (=0) must be at least one.")
    counts = Counter(answers)  # keeps the order of appearance
    most = max(counts.values())
    top = [answer for answer, count in counts.items() if count == most]
    return Majority(list(answers).index(top[0]), most / len(answers), len(top) > 1)
