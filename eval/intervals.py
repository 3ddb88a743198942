"""Item rows to numbers with intervals.

An *item row* is what a benchmark writes of one item under one condition: `id`, `group` (the unit
that resampling keeps together), `condition`, and numbers. A row that lacks a number, a gold score
of a prompt without a known answer for instance, has no such key and takes no part in it. Everything
that is reported is computed from these rows alone, so a comparison of two evaluations, or another
confidence level, needs no model. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plumbrule import statistics
from plumbrule.statistics import Interval

Row = Mapping[str, Any]
Metrics = dict[str, Interval]


@dataclass(frozen=True)
class Intervals:
    """One way to make every interval of a stage: confidence, resamples and seed."""

    confidence: float
    num_resamples: int
    seed: int

    def mean(self, rows: Sequence[Row], column: str) -> Interval | None:
        """Return the mean of a column, bootstrapped by group; None where no row has it."""
        rows = having(rows, column)
        if not rows:
            return None
        return statistics.mean_interval(
            values(rows, column),
            groups(rows),
            confidence=self.confidence,
            num_resamples=self.num_resamples,
            seed=self.seed,
        )

    def share(self, rows: Sequence[Row], column: str) -> Interval | None:
        """Return the share of 1 in a column of 0 and 1, Wilson by group; None where none has it."""
        rows = having(rows, column)
        if not rows:
            return None
        return statistics.share_interval(
            values(rows, column), groups(rows), confidence=self.confidence
        )

    def gain(self, before: Sequence[Row], after: Sequence[Row], column: str) -> Interval:
        """Return the mean of after - before over rows that stand for the same items, in order."""
        return statistics.paired_interval(
            values(before, column),
            values(after, column),
            groups(before),
            confidence=self.confidence,
            num_resamples=self.num_resamples,
            seed=self.seed,
        )

    def auroc(self, rows: Sequence[Row], column: str, label: str) -> Interval | None:
        """Return AUROC of a column for the 0/1 column `label`; None where a label is absent."""
        labels = [bool(row[label]) for row in rows]
        if all(labels) or not any(labels):
            return None
        return statistics.auroc_interval(
            values(rows, column),
            labels,
            groups(rows),
            confidence=self.confidence,
            num_resamples=self.num_resamples,
            seed=self.seed,
        )

    def spread(self, rows: Sequence[Row], column: str, member: str) -> Interval | None:
        """Return the highest less the lowest class mean; None for fewer than two classes."""
        members = [row[member] for row in rows]
        if len(set(members)) < 2:
            return None
        return statistics.spread_interval(
            values(rows, column),
            members,
            groups(rows),
            confidence=self.confidence,
            num_resamples=self.num_resamples,
            seed=self.seed,
        )

    def chance_spread(self, rows: Sequence[Row], column: str, member: str) -> Interval | None:
        """Return the spread below which equal classes would stay; it has no bounds of its own."""
        members = [row[member] for row in rows]
        if len(set(members)) < 2:
            return None
        limit = statistics.chance_spread(
            values(rows, column),
            members,
            groups(rows),
            confidence=self.confidence,
            num_resamples=self.num_resamples,
            seed=self.seed,
        )
        return point(limit, len(rows))


def having(rows: Sequence[Row], column: str) -> list[Row]:
    """Return the rows that have a column."""
    return [row for row in rows if column in row]


def values(rows: Sequence[Row], column: str) -> list[float]:
    """Return a column."""
    return [float(row[column]) for row in rows]


def groups(rows: Sequence[Row]) -> list[str]:
    """Return what each row is resampled with; an item without a group is one by itself."""
    return [row["group"] or row["id"] for row in rows]


def point(value: float, n: int) -> Interval:
    """Return a number that is exact for these items, or whose bounds are unknown."""
    return Interval(value, math.nan, math.nan, n)


def known(metrics: Mapping[str, Interval | None]) -> Metrics:
    """Return the metrics that some row stood for."""
    return {name: interval for name, interval in metrics.items() if interval is not None}


def as_json(interval: Interval) -> dict[str, float | int | None]:
    """Return the JSON form: unknown bounds are null."""
    return {
        name: None if isinstance(number, float) and math.isnan(number) else number
        for name, number in interval._asdict().items()
    }


def flat(name: str, interval: Interval) -> dict[str, float]:
    """Return the number as `name`, and its bounds as `name_low`, `name_high` where known."""
    bounds = {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {name: interval.value} | {k: v for k, v in bounds.items() if not math.isnan(v)}
