"""`plumbrule diff`: in what two runs differ."""

from __future__ import annotations

import argparse
import json

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.results.formats import aligned, number
from plumbrule.results.run_diff import MetricChange, RunDiff, diff


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("first", help="a run's id or folder")
    parser.add_argument("second", help="another's")
    parser.add_argument("--metric", action="append", default=[], help="default: the headline")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Print the differences. Raises: as `diff`."""
    found = diff(store_of(options), options.first, options.second, options.metric)
    if options.json:
        parts = {name: [one._asdict() for one in part] for name, part in found._asdict().items()}
        print(json.dumps(parts))
    else:
        print("\n".join(lines(found)))


def lines(found: RunDiff) -> list[str]:
    """Return the lines of a terminal: a part for each kind of difference, the same ones named."""
    said = []
    for name in ("settings", "data", "code", "versions"):
        changes = getattr(found, name)
        said.append(f"{name}" if changes else f"{name}: the same")
        if changes:
            said += aligned([(f"  {one.what}", one.a, "->", one.b) for one in changes])
    said.append("metrics (each interval is over the items of its run)")
    rows = [
        (
            f"  {one.metric}",
            f"{number(one.a)}{_bounds(one.bounds_a)}",
            "->",
            f"{number(one.b)}{_bounds(one.bounds_b)}",
            f"{one.difference:+.4g}",
            _verdict(one),
        )
        for one in found.metrics
    ]
    return said + (aligned(rows) if rows else ["  none that both have"])


def _bounds(bounds: tuple[float | None, float | None]) -> str:
    low, high = bounds
    return "" if low is None or high is None else f" [{number(low)}, {number(high)}]"


def _verdict(one: MetricChange) -> str:
    if one.apart is None:
        return "" if one.difference else "the same"
    return "intervals apart" if one.apart else "intervals overlap"
