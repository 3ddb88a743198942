"""How often one policy's answer to a prompt is the better of the two: win rate, ties.

A win counts 1, a tie one half, a loss 0, so 0.5 is no difference. Both policies answered the same
prompts, so each prompt has one verdict, and the interval is over prompts: Wilson's, by group. By
how much an answer is better does not count, which a mean difference does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval.intervals import Intervals, Row
from plumbrule.statistics import Interval

TOLERANCE = 1e-6
"""Scores closer than this, and than this share of the larger, are a tie: they are of one text, and
differ by the batch that it was scored in."""
PROMPTS = "prompts"
"""The benchmark whose answers a judge compares."""
ORDERS = ("first_share", "contradicts")
"""What is known of a judge beside its verdicts."""
FAILED = "failed"
"""Of a row: 1 where the judge did not answer both orders."""


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


def judge_verdict(preference: float, contradicts: float) -> float:
    """Return 1 where a judge prefers the policy's answer, 0 the baseline's; 0.5: it has no verdict.

    Args: preference: above 0 for the policy's. contradicts: 1 where its two orders disagree.
    """
    return 0.5 if contradicts else verdict(-preference, preference)


def verdict_row(row: Row, win: float) -> dict[str, Any]:
    """Return what is counted of one item. win: 1, 0.5 or 0."""
    kept = {name: row[name] for name in ("id", "group", "condition")}
    return {**kept, "win": win, "tie": int(win == 0.5)}


def decided(row: Row) -> dict[str, Any]:
    """Return a published row with its verdict made again of the scores that it holds.

    Rows of equal answers, about which nobody was asked, hold none.
    """
    if "preference" in row:
        win = judge_verdict(float(row["preference"]), float(row["contradicts"]))
    elif "policy" in row:
        win = verdict(float(row["baseline"]), float(row["policy"]))
    else:
        return dict(row)
    return {**row, "win": win, "tie": int(win == 0.5)}


def conditions_of(verdicts: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the conditions of all rows, in the order of the longest list of them."""
    longest_first = sorted(verdicts.values(), key=len, reverse=True)
    return list(dict.fromkeys(str(row["condition"]) for rows in longest_first for row in rows))


def shares_of_orders(
    rows: Sequence[Row], by_endpoint: bool, intervals: Intervals
) -> dict[str, Interval]:
    """Return the shares of a judge's orders by its published rows: `ORDERS`, and `failure_rate`.

    Args: by_endpoint: whether it could fail to answer; only then has it a failure rate.
    """
    asked = [row for row in rows if FAILED in row or ORDERS[0] in row]
    found = {name: intervals.share(asked, name) for name in ORDERS}
    if by_endpoint:
        counted = [{**row, FAILED: row.get(FAILED, 0)} for row in asked]
        found["failure_rate"] = intervals.share(counted, FAILED)
    return {name: share for name, share in found.items() if share is not None}


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
