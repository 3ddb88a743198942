"""Numbers as the report shows them: with their intervals, and in tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from plumbrule.report import figures
from plumbrule.report.metric_wording import better_when, describe, direction, within
from plumbrule.statistics import Interval


def headline(name: str, metrics: Mapping[str, float], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a headline metric with its interval. found: what its stage wrote of it, or {}."""
    unit, meaning = describe(name)
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return {
        "name": name,
        "value": figures.number(metrics[name]),
        "interval": _interval({"low": low, "high": high, "reason": found.get("reason")}, name),
        "size": _size(found),
        "unit": unit,
        "meaning": meaning,
        "better": direction(name),
    }


def with_bounds(name: str, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return a metric of a node and its interval as text."""
    if name not in metrics:
        return {"value": "", "bounds": ""}
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    low, high = within(name, low, high)
    bounds = "" if low is None or high is None else f"{shown(low)} to {shown(high)}"
    return {"value": shown(metrics[name]), "bounds": bounds}


def comparison_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return comparison rows, rewards first, each with an interval bar.

    Rows of one quantity share an axis, which holds zero. A bound that is not known leaves no bar.
    """
    found = []
    measured = Counter(row["what"] for row in rows)
    for row in sorted(rows, key=lambda row: not str(row["what"]).startswith("gold")):
        if row["condition"] == "all" and measured[row["what"]] == 2:
            continue  # it repeats the one condition that there is
        alike = [other for other in rows if other["what"] == row["what"]]
        ends = [float(o[k]) for o in alike for k in ("low", "high") if o[k] is not None]
        span = (min([0.0, *ends]), max([0.0, *ends]))
        known = row["low"] is not None and row["high"] is not None
        found.append(
            {
                **row,
                "bar": figures.interval_bar(
                    row["difference"], row["low"], row["high"], span, better_when(row)
                )
                if known
                else "",
                "interval": _interval(row),
                "verdict": figures.verdict(row["low"], row["high"], better_when(row))
                if known
                else "level",
                "better": better_when(row),
                "groups": shown(row.get("groups")),
                **{k: shown(row[k]) for k in ("baseline", "policy", "difference")},
            }
        )
    return found


def benchmark_tables(evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one table per benchmark: metrics down, evaluated nodes and conditions across.

    A cell is empty where that node and condition has no such metric.
    """
    columns: dict[str, dict[str, Mapping[str, Any]]] = {}
    for node, by_benchmark in evaluations.items():
        for benchmark, by_condition in by_benchmark.items():
            for condition, metrics in by_condition.items():
                head = f"{node} · {condition}" if len(by_condition) > 1 else node
                columns.setdefault(benchmark, {})[head] = metrics
    return [
        {
            "name": benchmark,
            "columns": list(found),
            "rows": [
                (
                    metric,
                    direction(metric),
                    [_cell(metrics.get(metric), metric) for metrics in found.values()],
                )
                for metric in dict.fromkeys(m for metrics in found.values() for m in metrics)
            ],
        }
        for benchmark, found in columns.items()
    ]


def card_rows(found: Mapping[str, Any], path: str = "") -> list[dict[str, str]]:
    """Return one row per number of a nested mapping; {"value", "low", "high", "n"} is one."""
    rows: list[dict[str, str]] = []
    for key, value in found.items():
        name = f"{path} · {key}" if path else str(key)
        if isinstance(value, Mapping) and "value" in value:
            rows.append({"name": name, **_cell(value, f"rm/{key}")})
        elif isinstance(value, Mapping):
            rows += card_rows(value, name)
        elif isinstance(value, int | float | str):
            rows.append(
                {"name": name, "value": shown(value), "interval": "", "n": "", "groups": ""}
            )
    return rows


def stage_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table that a stage left, its cells as text.

    A cell is text or a number, or an interval's JSON form with the `metric` that it is of.
    """
    return {**table, "rows": [[_stage_cell(cell) for cell in row] for row in table["rows"]]}


def _stage_cell(cell: Any) -> Any:
    if not isinstance(cell, Mapping):
        return cell
    number = {name: value for name, value in cell.items() if name != "metric"}
    low, high = within(cell["metric"], number["low"], number["high"])
    return Interval.from_json({**number, "low": low, "high": high}).text(4)


def _cell(number: Mapping[str, Any] | None, name: str) -> dict[str, str]:
    """Return value, interval and n of one measured number, as text."""
    if number is None:
        return {"value": "", "interval": "", "n": "", "groups": "", "bounds": ""}
    interval = _interval(number, name)
    return {
        "value": shown(number["value"]),
        "interval": interval,
        "n": shown(number.get("n")),
        "groups": shown(number.get("groups")),
        "bounds": " · ".join(part for part in (interval, _size(number)) if part),
    }


def _interval(number: Mapping[str, Any], metric: str = "") -> str:
    """Return the bounds of a number as text, or why it has none. metric: "": a difference."""
    low, high = number.get("low"), number.get("high")
    if metric:
        low, high = within(metric, low, high)
    if low is None or high is None:
        return str(number.get("reason") or "")
    return f"{shown(low)} to {shown(high)}"


def _size(number: Mapping[str, Any]) -> str:
    """Return how many items and groups a number rests on, as text."""
    n, groups = shown(number.get("n")), shown(number.get("groups"))
    parts = (f"n {n}" if n else "", f"groups {groups}" if groups else "")
    return " · ".join(part for part in parts if part)


def shown(value: Any) -> str:
    if value is None:
        return ""
    return figures.number(float(value)) if isinstance(value, int | float) else str(value)
