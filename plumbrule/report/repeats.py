"""Runs that repeat one cell of a sweep: its seeds, or the folds of a cross-validation.

One rule for a mean and for a paired difference: an interval over seeds or folds is told from three
on. Student's quantile of two is 12.7 deviations, which says nothing that the two numbers do not
say, and a p-value of two pairs no more. Where cells differ by fold, the seeds of a fold are
averaged first, and the interval is one over folds (`plumbrule/statistics/folds.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from plumbrule.statistics import Interval, fold_interval, seed_interval

FEWEST = 3
"""Seeds or folds from which an interval over them is told."""
SEEDS, FOLDS, ITEMS = "seeds", "folds", "items"
"""What an interval is over; items: of the only run."""
REPEATED = ("seed", "fold")
"""Settings by whose values the runs of a group differ."""


def setting_of(overrides: Iterable[str], key: str) -> str:
    """Return what overrides set a key to, the last of them; "" where none does."""
    own = [o.partition("=")[2] for o in overrides if key_without_signs(o) == key]
    return own[-1] if own else ""


def known_or_set(known: object, overrides: Iterable[str], key: str) -> str:
    """Return as text what a run's config or record has for a key; None: what its overrides set."""
    return setting_of(overrides, key) if known is None else str(known)


def key_without_signs(override: str) -> str:
    """Return the setting of an override, without what Hydra writes before it to add one."""
    return override.partition("=")[0].lstrip("+")


def is_repeat(override: str) -> bool:
    """Return whether an override tells runs of a group apart, and no groups."""
    return key_without_signs(override) in REPEATED


def repeat_words(seed: str, fold: str) -> str:
    """Return what tells a run from others of its group: `seed=0`, and `fold=1` where it has one."""
    return " ".join(f"{key}={value}" for key, value in (("seed", seed), ("fold", fold)) if value)


class RunNumber(NamedTuple):
    """A number of one run. fold: "" without cross-validation. folds: how many there are; "": not
    known.
    """

    value: float
    fold: str = ""
    folds: str = ""


class Repeats(NamedTuple):
    """The numbers of a group: one for each seed or fold. folds: of the cross-validation, else 0."""

    values: Sequence[float]
    over: str
    folds: int = 0

    @classmethod
    def of(cls, measured: Sequence[RunNumber]) -> Repeats:
        """Return what runs come to; where there are several folds, one number for each."""
        by_fold: dict[str, list[float]] = {}
        for one in measured:
            by_fold.setdefault(one.fold, []).append(one.value)
        if len(by_fold) < 2:
            return cls([one.value for one in measured], SEEDS)
        told = [int(text) for one in measured for text in (one.folds,) if text.isdecimal()]
        places = [int(fold) + 1 for fold in by_fold if fold.isdecimal()]
        means = [sum(own) / len(own) for own in by_fold.values()]
        return cls(means, FOLDS, max([len(by_fold), *told, *places]))

    def interval(self) -> Interval:
        """Return the mean with Student's interval; without bounds below `FEWEST`."""
        found = (
            fold_interval(self.values, self.folds)
            if self.over == FOLDS
            else seed_interval(self.values)
        )
        if len(self.values) < FEWEST:
            return found._replace(low=math.nan, high=math.nan)
        return found
