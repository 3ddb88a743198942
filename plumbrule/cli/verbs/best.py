"""`plumbrule best`: the best group of a sweep by a metric, with its runs."""

from __future__ import annotations

import argparse
import json
import math

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.results.best_group import ENDS, best
from plumbrule.results.formats import estimate, number


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", nargs="+", help="a sweep or runs, as for gather")
    parser.add_argument("metric", help="as ppo/gold_gain")
    parser.add_argument("--end", choices=tuple(ENDS.values()), help="default: as the metric says")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Print the best group, how sure that is, and a line per run. Raises: as `best`."""
    found = best(store_of(options), options.what, options.metric, options.end)
    if options.json:
        runs = [str(folder) for folder in found.runs]
        print(json.dumps({**found.row, "end": found.end, "doubt": found.doubt[2:], "runs": runs}))
        return
    told = f"{options.metric} {estimate(found.row)}, the {found.end}{found.doubt}"
    print(f"{found.row['group']}: {told}")
    for cell in found.cells:
        value = number(cell.metrics.get(options.metric, math.nan))
        print(f"  {cell.repeat}  {value}  {cell.folder}")
        print(f"    {cell.command}")
