"""The charts of a report: the curves that a node's stages logged, and the figures they left."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from plumbrule.report import figures, plots
from plumbrule.report.metric_wording import WORDINGS, describe
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import METRIC_ROWS
from plumbrule.store.metric_rows import read_metrics

MAX_CURVES = 12


def stage_figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's figure as the page shows it."""
    words = {name: figure[name] for name in ("title", "caption", "y")}
    return {**words, "svg": plots.plot(figure), "legend": plots.legend(figure)}


def curves(cells: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Return charts of the metrics that a node's stages logged at three or more updates.

    One variation is a line chart; several share the axes of a larger one.
    """
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for cell, artifact in cells.items():
        logged = artifact.has(METRIC_ROWS) and artifact.file(METRIC_ROWS).parent
        for row in read_metrics(logged) if logged else []:
            for name, value in row.items():
                if name != "update" and isinstance(value, int | float) and math.isfinite(value):
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
    """Return the drawing of one metric's curves and its legend."""
    if len(cells) == 1:
        return {"svg": figures.line_chart(next(iter(cells.values())), name), "legend": []}
    figure = {
        "title": name,
        "x": "update",
        "series": [
            {"name": cell, "style": "line", "colour": n, "points": points}
            for n, (cell, points) in enumerate(cells.items())
        ],
    }
    return {"svg": plots.plot(figure), "legend": plots.legend(figure)}


def thinned(points: list[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """Return at most `most` points, means of equal runs, so that a page stays small."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]
