"""Charts as SVG text: the graph of a run, and small line charts.

They use the page's own colours (`currentColor` and CSS classes), so they follow its light and dark
themes, and carry `<title>` elements, so that a pointer over a mark reads its value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 122, 40, 44, 14


def number(value: float, digits: int = 4) -> str:
    """Return a number as a person reads it: `digits` significant ones or a whole number."""
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    return f"{value:.2e}"


def layers(inputs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the nodes of a graph in columns: a node stands right of all its inputs.

    Within a column nodes are ordered by the mean row of their inputs, so that edges cross little.
    """
    depth: dict[str, int] = {}

    def column(name: str) -> int:
        if name not in depth:
            depth[name] = max((column(source) + 1 for source in inputs[name]), default=0)
        return depth[name]

    for name in inputs:
        column(name)
    users = {name: [n for n in inputs if name in inputs[n]] for name in inputs}
    for name in inputs:  # a source stands just left of its first user
        if not inputs[name] and users[name]:
            depth[name] = min(depth[user] for user in users[name]) - 1
    columns: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in inputs:
        columns[depth[name]].append(name)
    row: dict[str, float] = {}
    for names in columns:
        middle = {
            name: sum(row.get(s, 0.0) for s in inputs[name]) / max(len(inputs[name]), 1)
            for name in names
        }
        names.sort(key=lambda name, middle=middle: middle[name])  # type: ignore[misc]
        row |= {name: i - len(names) / 2 for i, name in enumerate(names)}
    return columns


def graph(nodes: Mapping[str, Mapping[str, object]]) -> str:
    """Return an SVG of a run's graph: boxes by column, edges from inputs to users.

    Args: nodes: name -> {"kind", "state", "inputs": slot -> node, "wall_seconds"}.
    """
    inputs = {n: [s for s in about["inputs"].values() if s in nodes] for n, about in nodes.items()}  # type: ignore[attr-defined]
    columns = layers(inputs)
    tall = max(len(names) for names in columns)
    height = tall * (BOX_HEIGHT + GAP_Y) + GAP_Y
    width = len(columns) * (BOX_WIDTH + GAP_X) - GAP_X + 8
    place: dict[str, tuple[float, float]] = {}
    for column, names in enumerate(columns):
        top = (height - len(names) * (BOX_HEIGHT + GAP_Y) + GAP_Y) / 2
        for i, name in enumerate(names):
            place[name] = (4 + column * (BOX_WIDTH + GAP_X), top + i * (BOX_HEIGHT + GAP_Y))
    parts = []
    for name, sources in inputs.items():
        x2, y2 = place[name][0], place[name][1] + BOX_HEIGHT / 2
        for source in sources:
            x1, y1 = place[source][0] + BOX_WIDTH, place[source][1] + BOX_HEIGHT / 2
            bend = max((x2 - x1) / 2, 18)
            parts.append(
                f'<path class="edge" d="M{x1:.0f} {y1:.1f}C{x1 + bend:.0f} {y1:.1f} '
                f'{x2 - bend:.0f} {y2:.1f} {x2:.0f} {y2:.1f}"><title>{escape(source)} → '
                f"{escape(name)}</title></path>"
            )
    for name, about in nodes.items():
        x, y = place[name]
        state = str(about["state"])
        detail = f"{about['kind']} · {state}"
        seconds = float(about["wall_seconds"])  # type: ignore[arg-type]
        parts.append(
            f'<g class="node {escape(state)}"><title>{escape(name)}: {escape(detail)}, '
            f"{seconds:.1f} s to build</title>"
            f'<rect x="{x:.0f}" y="{y:.1f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
            f'<text class="name" x="{x + 10:.0f}" y="{y + 17:.1f}">{escape(name)}</text>'
            f'<text class="detail" x="{x + 10:.0f}" y="{y + 31:.1f}">{escape(detail)}</text></g>'
        )
    return (
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'style="max-width:{width:.0f}px" aria-label="graph of the run">{"".join(parts)}</svg>'
    )


def ticks(values: Sequence[float], most: int = 5, whole: bool = False) -> list[float]:
    """Return evenly spaced round numbers from below the lowest value to above the highest.

    Args: most: steps that the range of the values may be cut into. whole: no step is below 1.
    """
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        half = max(abs(high) * 0.1, 1e-9)
        low, high = low - half, high + half
    raw = max((high - low) / most, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        power * m
        for m in (1, 2, 2.5, 5, 10)
        if power * m >= raw * 0.999 and not (whole and power * m % 1)
    )
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def label_width(values: Sequence[float]) -> float:
    """Return the room that the widest of the numbers takes left of an axis, in SVG units."""
    return 10.0 + CHARACTER * max(len(number(value)) for value in values)


CHARACTER = 6.0
"""Widest digit of an axis label, SVG units; the style sheet sets 10 px."""


def line_chart(points: Sequence[tuple[float, float]], label: str) -> str:
    """Return an SVG line chart of (x, y) points, with round ticks and the last value marked."""
    wide, high, foot = 300.0, 120.0, 18.0
    xs = [x for x, _ in points]
    x0, x1 = min(xs), max(xs)
    up = ticks([y for _, y in points], most=3)
    left = label_width(up)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        share = (up[-1] - y) / (up[-1] - up[0])
        return left + across * (wide - left - 8), 8 + share * (high - foot - 12)

    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(x, y) for x, y in points))
    grid = []
    for value in up:
        _, py = at(x0, value)
        grid.append(
            f'<line class="grid" x1="{left:.0f}" x2="{wide - 8}" y1="{py:.1f}" y2="{py:.1f}"/>'
            f'<text x="{left - 5:.0f}" y="{py + 3:.1f}" text-anchor="end">{number(value)}</text>'
        )
    ends = "".join(
        f'<text x="{at(x, up[0])[0]:.1f}" y="{high - 2}" text-anchor="{anchor}">{number(x)}</text>'
        for x, anchor in ((x0, "start"), (x1, "end"))
    )
    marks = "".join(
        _mark(*at(x, y), f"update {number(x)}: {number(y)}", last=i == len(points) - 1)
        for i, (x, y) in enumerate(points)
        if len(points) <= 60 or i == len(points) - 1
    )
    return (
        f'<svg class="chart" viewBox="0 0 {wide:.0f} {high:.0f}" role="img" '
        f'aria-label="{escape(label)}">{"".join(grid)}{ends}'
        f'<polyline class="line" points="{line}"/>{marks}</svg>'
    )


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Return an SVG of what came true against how sure one was, from one half to 1; "" for no bins.

    Args: bins: {"sureness", "share", "n"} each; a dot's area goes with n.
    """
    if not bins:
        return ""
    wide, high, left, foot = 300.0, 160.0, 46.0, 18.0
    low = min(0.5, min(b["share"] for b in bins))

    def at(sureness: float, share: float) -> tuple[float, float]:
        across = left + (sureness - 0.5) / 0.5 * (wide - left - 12)
        return across, 8 + (1 - share) / (1 - low) * (high - foot - 14)

    (x0, y0), (x1, y1) = at(0.5, 0.5), at(1.0, 1.0)
    grid = "".join(
        f'<line class="grid" x1="{left}" x2="{wide - 8}" y1="{at(0.5, v)[1]:.1f}" '
        f'y2="{at(0.5, v)[1]:.1f}"/><text x="{left - 5}" y="{at(0.5, v)[1] + 3:.1f}" '
        f'text-anchor="end">{number(v)}</text>'
        for v in (low, 0.75, 1.0)
    )
    ends = "".join(
        f'<text x="{at(v, 1)[0]:.1f}" y="{high - 3}" text-anchor="middle">{number(v)}</text>'
        for v in (0.5, 0.75, 1.0)
    )
    most = max(b["n"] for b in bins)
    marks = "".join(
        f'<circle cx="{at(b["sureness"], b["share"])[0]:.1f}" '
        f'cy="{at(b["sureness"], b["share"])[1]:.1f}" '
        f'r="{2 + 5 * math.sqrt(b["n"] / most):.1f}" class="mark"><title>sure to '
        f"{number(b['sureness'])}: right in {number(b['share'])} of {b['n']:.0f}</title></circle>"
        for b in bins
    )
    return (
        f'<svg class="chart" viewBox="0 0 {wide:.0f} {high:.0f}" role="img" '
        f'aria-label="reliability">{grid}{ends}<line class="zero" x1="{x0:.1f}" y1="{y0:.1f}" '
        f'x2="{x1:.1f}" y2="{y1:.1f}"/>{marks}</svg>'
    )


def _mark(x: float, y: float, title: str, last: bool) -> str:
    """Return a point of a curve; the last one is drawn larger."""
    radius, name = (3, "last") if last else (2, "mark")
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{name}">'
        f"<title>{title}</title></circle>"
    )


def verdict(low: float, high: float, better: int) -> str:
    """Return good, bad or change for an interval of a difference that excludes 0, else level.

    Args: better: 1 where a rise is better, -1 where a fall is, 0 where neither.
    """
    if low <= 0 <= high:
        return "level"
    rises = 1 if low > 0 else -1
    return {1: "good", -1: "bad", 0: "change"}[rises * better]


def interval_bar(
    value: float, low: float, high: float, span: tuple[float, float], better: int = 0
) -> str:
    """Return an SVG of an interval on a common axis `span` that shows zero; see `verdict`."""
    wide, high_px = 160.0, 18.0
    lo, hi = span

    def at(v: float) -> float:
        return 4 + (v - lo) / (hi - lo) * (wide - 8) if hi > lo else wide / 2

    zero = (
        f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="1" y2="{high_px - 1}"/>'
        if lo <= 0 <= hi
        else ""
    )
    return (
        f'<svg class="interval {verdict(low, high, better)}" '
        f'viewBox="0 0 {wide:.0f} {high_px:.0f}" role="img" '
        f'aria-label="{number(value)} from {number(low)} to {number(high)}">{zero}'
        f'<line class="range" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="9" y2="9"/>'
        f'<circle cx="{at(value):.1f}" cy="9" r="3.5"><title>{number(value)} '
        f"[{number(low)}, {number(high)}]</title></circle></svg>"
    )
