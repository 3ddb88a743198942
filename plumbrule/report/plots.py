"""Figures that a stage leaves for the report: several series on one pair of axes, as SVG text.

A stage writes `figures.json`, a list of {"title", "caption", "x", "y", "series"}, each series with
"name" ("": not in the legend), "style", "colour" (a small number) and "points" ((x, y), or
(x, y, low, high) with an interval of y). Styles: dots; line, thin, dashes; way, a line whose last
point is marked; band, a line with its points, and its intervals as an area; ribbon, the same
without the points. "labels", where there is such, are [x, text] of ticks in place of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from plumbrule.report.figures import label_width, number, ticks

WIDE, HIGH, FOOT, TOP = 460.0, 250.0, 34.0, 8.0
NUM_COLOURS = 8
"""Colours of the page's style sheet, `.c0` to `.c7`; more series share them."""


def plot(figure: Mapping[str, Any]) -> str:
    """Return a figure as SVG; "" where it has no point."""
    series = [one for one in figure["series"] if one["points"]]
    ends = [tuple(p) for one in series for p in one["points"] if _drawn(p)]
    if not ends:
        return ""
    xs = [p[0] for p in ends]
    ys = [y for p in ends for y in p[1:] if y is not None and math.isfinite(y)]
    labels = dict(figure.get("labels", ()))
    whole = all(float(x).is_integer() for x in xs) and max(xs) > min(xs)
    across = _places(labels) if labels else ticks(xs, whole=whole)
    up = ticks(ys)
    left = label_width(up)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - across[0]) / (across[-1] - across[0]) * (WIDE - left - 16),
            TOP + (up[-1] - y) / (up[-1] - up[0]) * (HIGH - FOOT - TOP),
        )

    return (
        f'<svg class="plot" viewBox="0 0 {WIDE:.0f} {HIGH:.0f}" role="img" '
        f'aria-label="{escape(str(figure["title"]))}">{_grid(across, up, left, at, labels)}'
        f"{''.join(_series(one, at) for one in series)}"
        f'<text x="{(left + WIDE) / 2:.0f}" y="{HIGH - 4:.0f}" text-anchor="middle">'
        f"{escape(str(figure['x']))}</text></svg>"
    )


def legend(figure: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (class of its colour, name) of each named series."""
    return [
        (f"c{int(one['colour']) % NUM_COLOURS}", str(one["name"]))
        for one in figure["series"]
        if one["name"] and one["points"]
    ]


def _places(labels: Mapping[float, str]) -> list[float]:
    """Return the places of labels with half a step of room beside them."""
    places = sorted(labels)
    return [places[0] - 0.5, *places, places[-1] + 0.5]


def _drawn(point: Sequence[float | None]) -> bool:
    """Return whether a point has a place."""
    return all(x is not None and math.isfinite(x) for x in point[:2])


def _grid(
    across: Sequence[float],
    up: Sequence[float],
    left: float,
    at: Any,
    labels: Mapping[float, str],
) -> str:
    parts = []
    for y in up:
        _, py = at(across[0], y)
        kind = "zero" if y == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{left:.0f}" x2="{WIDE - 16}" y1="{py:.1f}" y2="{py:.1f}"/>'
            f'<text x="{left - 6:.0f}" y="{py + 3:.1f}" text-anchor="end">{number(y)}</text>'
        )
    for x in across:
        px, py = at(x, up[0])
        parts.append(
            f'<text x="{px:.1f}" y="{py + 13:.1f}" text-anchor="middle">'
            f"{escape(labels.get(x, '')) if labels else number(x)}</text>"
        )
    return "".join(parts)


def _series(one: Mapping[str, Any], at: Any) -> str:
    colour = f"c{int(one['colour']) % NUM_COLOURS}"
    points = [point for point in one["points"] if _drawn(point)]
    if one["style"] == "ribbon":
        return _band(points, colour, at)
    if one["style"] in ("line", "thin", "dashes", "way"):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(p[0], p[1]) for p in points))
        drawn = f'<polyline class="{one["style"]} {colour}" points="{line}"/>'
        if one["style"] != "way" or not points:
            return drawn
        x, y = at(points[-1][0], points[-1][1])
        title = f"last: {number(points[-1][0])}, {number(points[-1][1])}"
        return (
            f'{drawn}<circle class="end {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
            f"<title>{escape(title)}</title></circle>"
        )
    marks = [_band(points, colour, at)] if one["style"] == "band" else []
    for point in points:
        x, y = at(point[0], point[1])
        title = f"{one['name']}: {number(point[0])}, {number(point[1])}".removeprefix(": ")
        if len(point) == 4 and all(y is not None and math.isfinite(y) for y in point[2:]):
            low, high = (at(point[0], end)[1] for end in point[2:])
            title += f" [{number(point[2])}, {number(point[3])}]"
            marks.append(
                f'<line class="whisker {colour}" x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{low:.1f}" y2="{high:.1f}"/>'
            )
        marks.append(
            f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.4">'
            f"<title>{escape(title)}</title></circle>"
        )
    return "".join(marks)


def _band(points: Sequence[Sequence[float]], colour: str, at: Any) -> str:
    """Return the line through points, and the area of their intervals where there are such."""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(p[0], p[1]) for p in points))
    bounded = [p for p in points if len(p) == 4 and all(map(_is_known, p[2:]))]
    ends = [at(p[0], p[2]) for p in bounded] + [at(p[0], p[3]) for p in reversed(bounded)]
    area = " ".join(f"{x:.1f},{y:.1f}" for x, y in ends)
    drawn = f'<polygon class="{colour}" points="{area}"/>' if len(bounded) > 1 else ""
    return f'{drawn}<polyline class="line {colour}" points="{line}"/>'


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
