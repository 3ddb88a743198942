"""Curves of many runs on the same axes: a line per seed, a colour per group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plumbrule.report import plots
from plumbrule.report.curves import thinned
from plumbrule.report.metric_wording import WORDINGS, describe
from plumbrule.results.gathered import NodeRows

MOST = 12
FIRST = ("objective/scores", "objective/kl", "objective/entropy", "val/response_length_tokens")
"""Metrics that are drawn before others."""
LEFT_OUT = ("time/", "lr/")


def draw_curves(runs: Sequence[NodeRows], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a chart per metric that some run logged at two or more updates."""
    metrics = dict.fromkeys(m for run in runs for row in run.rows for m in row if m != "update")
    order = [*FIRST, *WORDINGS]
    names = [m for m in metrics if not m.startswith(LEFT_OUT)]
    names.sort(key=lambda m: order.index(m) if m in order else len(order))
    charts = []
    for metric in names:
        lines = [(run, points) for run in runs if len(points := _points(run.rows, metric)) > 1]
        if not lines or all(y == lines[0][1][0][1] for _, points in lines for _, y in points):
            continue  # nothing that changes
        told: set[str] = set()
        series = []
        for run, points in lines:
            name = "" if run.group in told else run.group
            told.add(run.group)
            style = {"name": name, "style": "line", "colour": colours[run.group]}
            series.append({**style, "points": thinned(points)})
        figure = {"title": metric, "x": "update", "series": series}
        unit, meaning = describe(metric)
        about = {"name": metric, "unit": unit, "meaning": meaning}
        charts.append({**about, "svg": plots.plot(figure), "legend": plots.legend(figure)})
        if len(charts) == MOST:
            break
    return charts


def _points(rows: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """Return (update, value) where the value is a finite number."""
    return [
        (row["update"], row[metric])
        for row in rows
        if isinstance(row.get(metric), int | float) and math.isfinite(row[metric])
    ]
