"""Item rows to numbers with intervals.

An *item row* is what a benchmark writes of one item under one condition: `id`, `group` (the unit
that resampling keeps together), `condition`, and numbers. A row that lacks a number, a gold score
of a prompt without a known answer for instance, has no such key and takes no part in it. Everything
that is reported is computed from these rows alone, so a comparison of two evaluations, or another
confidence level, needs no model. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbrule import statistics
from plumbrule.statistics import NUM_RESAMPLES, Interval
from plumbrule.store import headline

Row = Mapping[str, Any]
Metrics = dict[str, Interval]


@dataclass(frozen=True)
class Intervals:
    """One way to make every interval of a stage: confidence, and how spreads are resampled."""

    confidence: float
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0

    def mean(self, rows: Sequence[Row], column: str) -> Interval | None:
        """Return the mean of a column, by group; None where no row has it."""
        rows = having(rows, column)
        if not rows:
            return None
        return statistics.mean_interval(
            values(rows, column), groups(rows), confidence=self.confidence
        )._replace(method="student")

    def share(self, rows: Sequence[Row], column: str) -> Interval | None:
        """Return the mean of a column in [0, 1], Wilson by group; None where no row has it."""
        rows = having(rows, column)
        if not rows:
            return None
        return statistics.share_interval(
            values(rows, column), groups(rows), confidence=self.confidence
        )._replace(method="wilson")

    def label_share(
        self, rows: Sequence[Row], column: str, label: str, *, balanced: bool = False
    ) -> Interval | None:
        """Return the share of 1 in a column, its rows stratified by `label`; None without rows.

        balanced: the mean of the labels' shares, None where only one occurs.
        """
        strata = [row[label] for row in rows]
        if not rows or (balanced and len(set(strata)) < 2):
            return None
        return statistics.stratified_share_interval(
            values(rows, column), strata, groups(rows), equal=balanced, confidence=self.confidence
        )._replace(method="wilson, stratified")

    def gain(self, before: Sequence[Row], after: Sequence[Row], column: str) -> Interval:
        """Return the mean of after - before over rows that stand for the same items, in order.

        A column of whole numbers 0 and 1 is a share, also where all are equal; a score that is
        equal throughout has no bounds, since how far it might have moved is unknown.
        """
        a, b = values(before, column), values(after, column)
        if isinstance(before[0][column], float) and len({*a, *b}) == 1:
            gains = [new - old for old, new in zip(a, b, strict=True)]
            return statistics.mean_interval(gains, groups(before), confidence=self.confidence)
        return statistics.paired_interval(a, b, groups(before), confidence=self.confidence)

    def agreement(self, rows: Sequence[Row], a: str, b: str) -> Interval | None:
        """Return the rank correlation of two columns, None of fewer than two rows with both."""
        both = having(having(rows, a), b)
        if len(both) < 2:
            return None
        return statistics.spearman_interval(
            values(both, a), values(both, b), groups(both), confidence=self.confidence
        )._replace(method="jackknife")

    def statistic(
        self,
        of: Callable[..., float],
        rows: Sequence[Row],
        columns: Sequence[str],
        *,
        low: float = -math.inf,
        high: float = 1.0,
    ) -> Interval | None:
        """Return a statistic of columns, jackknifed by group, its bounds cut to [low, high]; None
        where no row has them.
        """
        if not rows:
            return None
        found = statistics.jackknife_interval(
            of,
            [values(rows, column) for column in columns],
            groups(rows),
            confidence=self.confidence,
        )
        found = found._replace(method="jackknife")
        return (
            found._replace(low=max(low, found.low), high=min(high, found.high))
            if (found.is_bounded)
            else found
        )

    def auroc(self, rows: Sequence[Row], column: str, label: str) -> Interval | None:
        """Return AUROC of a column for the 0/1 column `label`; None where a label is absent."""
        labels = [bool(row[label]) for row in rows]
        if all(labels) or not any(labels):
            return None
        return statistics.auroc_interval(
            values(rows, column), labels, groups(rows), confidence=self.confidence
        )._replace(method="jackknife")

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
        )._replace(method="bootstrap")

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
        return statistics.point(limit, len(rows))._replace(method="bootstrap")


def having(rows: Sequence[Row], column: str) -> list[Row]:
    """Return the rows that have a column."""
    return [row for row in rows if column in row]


def values(rows: Sequence[Row], column: str) -> list[float]:
    """Return a column."""
    return [float(row[column]) for row in rows]


def groups(rows: Sequence[Row]) -> list[str]:
    """Return what each row is resampled with; an item without a group is one by itself."""
    return [row["group"] or row["id"] for row in rows]


def publish(found: Mapping[str, Interval], out: Path) -> dict[str, float]:
    """Write headline metrics as `plumbrule.store.headline.publish` does; return them flat."""
    return headline.publish({name: one.as_json() for name, one in found.items()}, out)


def known(metrics: Mapping[str, Interval | None]) -> Metrics:
    """Return the metrics that some row stood for."""
    return {name: interval for name, interval in metrics.items() if interval is not None}
