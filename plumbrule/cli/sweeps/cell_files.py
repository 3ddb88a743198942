"""What a cell of a sweep leaves in its folder, whoever runs it."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from plumbrule.cli.messages import describe_stop, say
from plumbrule.errors import NeedsInput, Pruned
from plumbrule.report.sweep_table import CELL, STOPPED, Cell, read_cell, write_cell
from plumbrule.store.json_files import write_json

SWEEP = "PLUMBRULE_SWEEP"
"""Names the sweep that a cell belongs to, also where a launcher runs cells in other processes."""
FAILURE = "failure.json"


class SweepCell(NamedTuple):
    """The cell of a sweep that a run is, and its folder in the sweep's."""

    about: Cell
    folder: Path


def forget_earlier(folder: Path) -> None:
    """Remove what an earlier sweep has left of a cell."""
    for name in (FAILURE, CELL):
        (folder / name).unlink(missing_ok=True)


def leave_failure(cell: SweepCell, error: BaseException) -> None:
    """Write what ended a cell, what it waits for or why a search stopped it: `cell.json`, and where
    it failed `failure.json`.
    """
    about, words = cell.about, " ".join(cell.about.overrides)
    if isinstance(error, NeedsInput):
        say(f"cell {words}: {error}")
        write_cell(cell.folder, replace(about, awaits=error.what))
        return
    if isinstance(error, Pruned):
        write_cell(cell.folder, replace(about, pruned=str(error)))
        return
    if isinstance(error, KeyboardInterrupt):
        write_cell(cell.folder, replace(about, error=f"{STOPPED}{describe_stop(error)}"))
        return
    say(f"cell {words} failed: {error}")
    written = read_cell(cell.folder / CELL, about.sweep)  # of one that ended without its objective
    write_cell(cell.folder, replace(written or about, error=str(error)))
    trace = "".join(traceback.format_exception(error))
    failure = {"overrides": about.overrides, "error": str(error), "trace": trace}
    write_json(cell.folder / FAILURE, failure)
