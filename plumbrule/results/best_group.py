"""The best group of a sweep by one metric, with what tells it from the second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.errors import ConfigError
from plumbrule.report.metric_wording import direction
from plumbrule.report.sweep_table import SweepRow, undecided
from plumbrule.results.cells import RunCell, gather_cells
from plumbrule.results.nearest_names import nearest
from plumbrule.results.tables import groups_of, metrics_of, summarise
from plumbrule.store.artifacts import Store

ENDS = {1: "highest", -1: "lowest"}


class Best(NamedTuple):
    """row: of the table of `summarise`. end: highest or lowest. doubt: what the sentence needs to
    end with where the second is not told from it, else "". cells: its runs, by seed.
    """

    row: dict[str, Any]
    end: str
    doubt: str
    cells: Sequence[RunCell]

    @property
    def runs(self) -> list[Path]:
        """The folders of its runs."""
        return [cell.folder for cell in self.cells if cell.folder is not None]


def best(store: Store, words: Sequence[str], metric: str, end: str | None = None) -> Best:
    """Return the group whose mean is best.

    Args: end: highest or lowest; None: as the metric's name says (`metric_wording.direction`).
    Raises: ArtifactError: `words` name nothing. ConfigError: no done cell has the metric, or it
        is not known which way is better.
    """
    cells = gather_cells(store, words)
    if not any(cell.state == "done" for cell in cells):
        raise ConfigError(f"{' '.join(words)} must have a cell that is done, and none is.")
    metrics_of(cells, [metric])
    sought = end or ENDS.get(direction(metric))
    if sought is None:
        raise ConfigError(
            f"{metric} must say which way is better; pass --end highest or --end lowest."
        )
    table = summarise(cells, [metric])
    if table.empty:
        known = dict.fromkeys(name for cell in cells for name in cell.metrics)
        raise ConfigError(f"{metric} must be a finite number somewhere; {nearest(metric, known)}")
    sign = 1 if sought == "highest" else -1
    rows = [
        SweepRow(
            r["group"], metric, r["mean"], _known(r["low"]), _known(r["high"]), r["over"], r["n"]
        )
        for _, r in table.iterrows()
    ]
    first = max(rows, key=lambda row: sign * row.mean)
    doubt = undecided(first, rows, sought) if len(rows) > 1 else "; there is no other group"
    own = table[table["group"] == first.cell].iloc[0].to_dict()
    return Best({str(k): v for k, v in own.items()}, sought, doubt, groups_of(cells)[first.cell])


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
