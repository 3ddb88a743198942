"""Parallel coordinates as SVG text: a line per run across axes of settings and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from plumbrule.report.figures import number
from plumbrule.report.plots import NUM_COLOURS

STEP, HIGH, TOP, FOOT, SIDE = 150.0, 230.0, 34.0, 14.0, 60.0
LONGEST = 24
"""Characters of an axis' name that are shown."""


class Axis(NamedTuple):
    """One axis. values: one per line, NaN where it has none. labels: place -> text of a tick."""

    name: str
    values: Sequence[float]
    labels: Mapping[float, str]


def draw_lines(axes: Sequence[Axis], names: Sequence[str], colours: Sequence[int]) -> str:
    """Return the drawing; a line stops at an axis on which it has no value."""
    wide = STEP * (len(axes) - 1) + 2 * SIDE
    ranges = [_range(axis) for axis in axes]

    def at(place: int, value: float) -> tuple[float, float]:
        low, high = ranges[place]
        return SIDE + STEP * place, TOP + (high - value) / (high - low) * (HIGH - TOP - FOOT)

    parts = []
    for place, axis in enumerate(axes):
        x, (low, high) = SIDE + STEP * place, ranges[place]
        shown = axis.name if len(axis.name) <= LONGEST else f"…{axis.name[-LONGEST:]}"
        parts.append(
            f'<line class="axis" x1="{x:.0f}" x2="{x:.0f}" y1="{TOP}" y2="{HIGH - FOOT}"/>'
            f'<text x="{x:.0f}" y="14" text-anchor="middle">{escape(shown)}'
            f"<title>{escape(axis.name)}</title></text>"
        )
        ticks: Mapping[float, str] = axis.labels or {low: number(low), high: number(high)}
        for value, text in ticks.items():
            parts.append(
                f'<text x="{x - 5:.0f}" y="{at(place, value)[1] + 3:.1f}" text-anchor="end">'
                f"{escape(text[:LONGEST])}</text>"
            )
    for row, (name, colour) in enumerate(zip(names, colours, strict=True)):
        known = [(n, axis.values[row]) for n, axis in enumerate(axes)]
        points = [at(n, value) for n, value in known if math.isfinite(value)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline class="line c{colour % NUM_COLOURS}" points="{line}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    return (
        f'<svg class="plot parallel" viewBox="0 0 {wide:.0f} {HIGH:.0f}" role="img" '
        f'style="max-width:{wide:.0f}px;min-width:{wide * 0.7:.0f}px" '
        f'aria-label="parallel coordinates">{"".join(parts)}</svg>'
    )


def _range(axis: Axis) -> tuple[float, float]:
    known = [value for value in axis.values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
