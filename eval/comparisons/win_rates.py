"""How often one policy's answer to a prompt is the better of the two: win rate, ties.

A win counts 1, a tie one half, a loss 0, so 0.5 is no difference. Both policies answered the same
prompts, so each prompt has one verdict, and the interval is over prompts: Wilson's, by group. By
how much an answer is better does not count, which a mean difference does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from eval.intervals import Intervals, Row
from plumbrule.statistics import Interval

TOLERANCE = 1e-6
"""Scores closer than this, and than this share of the larger, are a tie: they are of one text, and
differ by the batch that it was scored in."""


class WinRate(NamedTuple):
    """One win rate. name: such as gold_win_rate. condition: `all` over every condition."""

    name: str
    benchmark: str
    condition: str
    win_rate: Interval
    ties: Interval


def verdict(baseline: float, policy: float, better: int = 1) -> float:
    """Return 1 where the policy's score is the better one, 0.5 of a tie, else 0.

    better: 1 where the higher score is the better one, -1 where the lower is.
    """
    if math.isclose(baseline, policy, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        return 0.5
    return float((policy - baseline) * better > 0)


def verdict_row(row: Row, win: float) -> dict[str, Any]:
    """Return what is counted of one item. win: 1, 0.5 or 0."""
    kept = {name: row[name] for name in ("id", "group", "condition")}
    return {**kept, "win": win, "tie": int(win == 0.5)}


def win_rates(
    name: str,
    benchmark: str,
    rows: Sequence[Row],
    conditions: Sequence[str],
    intervals: Intervals,
) -> list[WinRate]:
    """Return the win rate over all conditions and under each.

    Args: rows: of `verdict_row`.
    """
    found = []
    for condition in ["all", *conditions]:
        some = [row for row in rows if condition in ("all", row["condition"])]
        rate, ties = intervals.share(some, "win"), intervals.share(some, "tie")
        if rate is not None and ties is not None:
            found.append(WinRate(name, benchmark, condition, rate, ties))
    return found


def metrics_of(kind: str, found: Sequence[WinRate]) -> dict[str, Interval]:
    """Return `<kind>/<name>` and `<kind>/<name>_ties`, with the condition where it is not `all`."""
    metrics = {}
    for one in found:
        end = "" if one.condition == "all" else f"_{one.condition}"
        metrics[f"{kind}/{one.name}{end}"] = one.win_rate
        metrics[f"{kind}/{one.name}_ties{end}"] = one.ties
    return metrics


def as_row(one: WinRate) -> dict[str, Any]:
    """Return the row of `win_rates.json`."""
    return {
        "what": one.name,
        "benchmark": one.benchmark,
        "condition": one.condition,
        **one.win_rate.as_json(),
        "ties": one.ties.as_json(),
    }
