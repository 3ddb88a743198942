"""The charts of a report: the curves that a node's stages logged, and the figures they left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plumbrule.report import figures, plots
from plumbrule.report.metric_wording import WORDINGS, describe
from plumbrule.statistics import seed_interval
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import METRIC_ROWS
from plumbrule.store.metric_rows import read_metrics

MAX_CURVES = 12
FEWEST_SEEDS = 3
"""From which a band is drawn: Student's quantile of two is 12.7 deviations."""


def stage_figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's figure as the page shows it."""
    words = {name: figure[name] for name in ("title", "caption", "y")}
    return {**words, "svg": plots.plot(figure), "legend": plots.legend(figure)}


def logged_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """Return what a node's stage logged, a row an update; [] where it logged nothing."""
    return read_metrics(artifact.file(METRIC_ROWS).parent) if artifact.has(METRIC_ROWS) else []


def is_finite(value: Any) -> bool:
    """Return whether a logged value is a finite number: NaN and Inf are logged as text."""
    return isinstance(value, int | float) and math.isfinite(value)


def curves(cells: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Return charts of the metrics that a node's stages logged at three or more updates.

    One variation is a line chart; several share the axes of a larger one. Those that differ by
    their seed alone are a thin line each, of one colour, and from three on their mean with a band.
    """
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for cell, artifact in cells.items():
        for row in logged_rows(artifact):
            for name, value in row.items():
                if name != "update" and is_finite(value):
                    points = series.setdefault(name, {}).setdefault(cell, [])
                    points.append((row["update"], value))
    order = list(WORDINGS)
    names = [n for n, by in series.items() if max(map(len, by.values())) >= 3]
    names = [n for n in names if not n.startswith("time/")]
    names.sort(key=lambda n: order.index(n) if n in order else len(order))
    return [
        {
            "name": name,
            "unit": describe(name)[0],
            "meaning": describe(name)[1],
            **_chart(name, {cell: thinned(points) for cell, points in series[name].items()}),
        }
        for name in names[:MAX_CURVES]
    ]


def _chart(name: str, cells: Mapping[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return the drawing of one metric's curves, its legend, and what its bands are."""
    if len(cells) == 1:
        return {
            "svg": figures.line_chart(next(iter(cells.values())), name),
            "legend": [],
            "bands": "",
        }
    series: list[dict[str, Any]] = []
    bands = ""
    for colour, (group, alike) in enumerate(by_seed(cells).items()):
        style = "line" if len(alike) == 1 else "thin"
        mean = _mean_over_seeds(alike)
        named = group or f"{len(alike)} seeds"
        if mean:
            bands = "mean of the seeds, with Student's 95 % interval over them as a band"
            series.append({"name": named, "style": "ribbon", "colour": colour, "points": mean})
        for place, points in enumerate(alike):
            label = named if not mean and place == 0 else ""
            series.append({"name": label, "style": style, "colour": colour, "points": points})
    figure = {"title": name, "x": "update", "series": series}
    return {"svg": plots.plot(figure), "legend": plots.legend(figure), "bands": bands}


def by_seed(
    cells: Mapping[str, list[tuple[float, float]]],
) -> dict[str, list[list[tuple[float, float]]]]:
    """Return variation without its seed -> the curves of its seeds."""
    groups: dict[str, list[list[tuple[float, float]]]] = {}
    for cell, points in cells.items():
        rest = " ".join(part for part in cell.split(" ") if not part.startswith("seed="))
        groups.setdefault(rest, []).append(points)
    return groups


def _mean_over_seeds(
    curves: Sequence[list[tuple[float, float]]],
) -> list[tuple[float, float, float, float]]:
    """Return (x, mean, low, high) where at least `FEWEST_SEEDS` curves have a point."""
    values: dict[float, list[float]] = {}
    for points in curves:
        for x, y in points:
            values.setdefault(x, []).append(y)
    found = []
    for x, ys in sorted(values.items()):
        if len(ys) >= FEWEST_SEEDS:
            mean = seed_interval(ys)
            ends = (mean.low, mean.high) if mean.is_bounded else (mean.value, mean.value)
            found.append((x, mean.value, *ends))
    return found


def thinned(points: list[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """Return at most `most` points, means of equal runs, so that a page stays small."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]
