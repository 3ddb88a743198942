"""The table that a sweep ends with: what metrics each cell has, over seeds, and which is the best.

Each cell leaves `cell.json` in its own folder of the sweep, also where a launcher runs cells in
other processes, and the command that started the sweep reads them when all are done. Cells that
differ only by `seed` or `fold` are one row: the mean over seeds or folds with an interval
(`repeats.py`). A cell with one seed keeps the interval of its own items, and says so: it tells
nothing about other seeds. No bound lies where its metric can't.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from plumbrule.report.metric_wording import direction, within
from plumbrule.report.repeats import (
    FEWEST,
    FOLDS,
    ITEMS,
    SEEDS,
    Repeats,
    RunNumber,
    is_repeat,
    known_or_set,
    repeat_words,
    setting_of,
)
from plumbrule.store.json_files import read_json, write_json
from plumbrule.store.manifests import require_numbers

CELL = "cell.json"
POSITION = ""
"""Among the settings of an axis' position, what its name stands under where it has one."""
STOPPED = "stopped by "
"""How the error of a run or a cell begins that a person or a system stopped."""
SHOWN = ("gold_gain", "/kl", "reward_gain", "rm/accuracy_noise_free", "rm/accuracy")
"""Ends of the headline metrics that the printed table has; the CSV has all."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep. number: its place in the sweep. objective: `run.objective`. run: ""
    where it failed. awaits: what a person must do before it goes on, "" where it waits for none.
    pruned: why a search stopped it early, "" where none did.
    zipped: name of an axis -> its settings and their values of this cell. fold, folds: of its
    config, whichever file or word set them; None: there is no cross-validation, or none was noted.
    """

    sweep: str
    number: int
    overrides: list[str]
    objective: str | None = None
    run: str = ""
    headline: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    awaits: str = ""
    zipped: dict[str, dict[str, str]] = field(default_factory=dict)
    pruned: str = ""
    fold: int | None = None
    folds: int | None = None

    @property
    def seed(self) -> str:
        """The seed as text, "" where the sweep sets none."""
        return setting_of(self.overrides, "seed")

    @property
    def repeat(self) -> str:
        """What tells it from others of its group, as words."""
        return repeat_words(self.seed or "default", known_or_set(self.fold, self.overrides, "fold"))

    def measured(self, metric: str) -> RunNumber:
        """Return a metric of it, of which it has a number."""
        fold = known_or_set(self.fold, self.overrides, "fold")
        folds = known_or_set(self.folds, self.overrides, "folds")
        return RunNumber(self.metrics[metric], fold, folds)


@dataclass(frozen=True)
class SweepRow:
    """One metric of one cell. over: what the interval is over, seeds, folds or items; low and high
    are None where there is none, and n counts seeds, folds or, over items, runs.
    """

    cell: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    over: str
    n: int


def write_cell(folder: Path, cell: Cell) -> None:
    """Write a cell's `cell.json` into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CELL, asdict(cell))


def read_cell(path: Path, sweep: str) -> Cell | None:
    """Return the cell in a file; None: it can't be read, or is of another sweep."""
    cell = read_any_cell(path)
    return cell if cell is not None and cell.sweep == sweep else None


def read_any_cell(path: Path) -> Cell | None:
    """Return the cell in a file, also one of a later version; None: it is not there, or damaged."""
    try:
        found = read_json(path)
        known = {k: v for k, v in found.items() if k in Cell.__dataclass_fields__}
        _require_types(known)
        return Cell(**known)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _require_types(found: Mapping[str, Any]) -> None:
    """Raise ValueError unless a cell's JSON has the types of its fields."""
    require_numbers(found.get("metrics", {}), "metrics")
    lists = [_part(found, name, list) for name in ("overrides", "headline")]
    zipped = _part(found, "zipped", dict)
    of_axes = [_part(zipped, name, dict).values() for name in zipped]
    texts = [found.get(name, "") for name in ("sweep", "run", "error", "awaits", "pruned")]
    texts += [found.get("objective") or "", *chain(*lists, *of_axes)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a field has another type than text")
    for number in (found.get("number"), found.get("fold") or 0, found.get("folds") or 0):
        if type(number) is not int:
            raise ValueError("number, fold or folds is no whole number")


def _part(found: Mapping[str, Any], name: str, type_: type) -> Any:
    """Return a list or an object of JSON, empty where it is absent. Raises: ValueError: another."""
    part = found.get(name, type_())
    if not isinstance(part, type_):
        raise ValueError(f"{name} is no {type_.__name__}")
    return part


def find_cells(folders: Iterable[Path], sweep: str) -> tuple[list[Cell], Path | None]:
    """Return a sweep's cells in their order, and the folder that holds the first; None: no cell.

    Args: folders: that hold cells, each in its own folder.
    """
    paths = [path for folder in folders for path in folder.glob(f"*/{CELL}")]
    found = [(path, read_cell(path, sweep)) for path in paths]
    own = sorted(((c.number, path, c) for path, c in found if c is not None), key=lambda o: o[:2])
    return [cell for _, _, cell in own], own[0][1].parent.parent if own else None


def names_of(cells: Sequence[Cell]) -> list[str]:
    """Return for each cell the overrides that not all cells have, seed and fold left out."""
    every = [with_labels(cell.overrides, cell.zipped) for cell in cells]
    shared = set.intersection(*map(set, every)) if len(cells) > 1 else set()
    return [
        " ".join(o for o in own if o not in shared and not is_repeat(o)) or "(all alike)"
        for own in every
    ]


def settings_at(at: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a position of an axis, without the position's name."""
    return {key: value for key, value in at.items() if key != POSITION}


def with_labels(overrides: Sequence[str], zipped: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return overrides, with the names of axes in place of their settings."""
    own = {f"{key}={value}" for at in zipped.values() for key, value in settings_at(at).items()}
    return [*label_words(zipped), *(word for word in overrides if word not in own)]


def label_words(zipped: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the positions of axes as words: `scale=1e-5/64`, or by its name `detail=dual_clip`."""
    return [f"{name}={at.get(POSITION) or '/'.join(at.values())}" for name, at in zipped.items()]


def rows_of(cells: Sequence[Cell]) -> list[SweepRow]:
    """Return a row for each cell (all seeds and folds) and headline metric; a failed one has none.

    A run whose metric is no finite number does not count.
    """
    groups: dict[str, list[Cell]] = {}
    for name, cell in zip(names_of(cells), cells, strict=True):
        if not cell.error:
            groups.setdefault(name, []).append(cell)
    rows = []
    for name, alike in groups.items():
        for metric in dict.fromkeys(m for c in alike for m in c.headline):
            runs = [cell for cell in alike if math.isfinite(cell.metrics.get(metric, math.nan))]
            if runs:
                rows.append(_row(name, metric, runs))
    return rows


def _row(name: str, metric: str, runs: Sequence[Cell]) -> SweepRow:
    if len(runs) == 1:
        own = runs[0].metrics
        low, high = (own.get(f"{metric}_{end}") for end in ("low", "high"))
        return SweepRow(name, metric, own[metric], *within(metric, low, high), ITEMS, 1)
    repeats = Repeats.of([cell.measured(metric) for cell in runs])
    found = repeats.interval()
    low, high = within(metric, found.low, found.high) if found.is_bounded else (None, None)
    return SweepRow(name, metric, found.value, low, high, repeats.over, len(repeats.values))


def interval_text(row: SweepRow) -> str:
    """Return a row's interval as the table has it, or why it has none."""
    if row.low is not None and row.high is not None:
        return f"[{row.low:.4g}, {row.high:.4g}]"
    return f"too few {row.over}" if row.over != ITEMS and row.n < FEWEST else ""


def over_text(row: SweepRow) -> str:
    """Return what a row's interval is over: seeds, folds, or the items of the only run."""
    return "items of 1 run" if row.over == ITEMS else f"{row.n} {row.over}"


def best_of(rows: Sequence[SweepRow], objective: str | None) -> tuple[SweepRow, str] | None:
    """Return the best row of the objective and which end was sought, None where nothing says.

    Without an objective it is the first metric that ends in `gold_gain`.
    """
    metric = objective or next((r.metric for r in rows if r.metric.endswith("gold_gain")), None)
    own = [row for row in rows if row.metric == metric]
    if metric is None or len(own) < 2:
        return None
    sign = direction(metric) or 1
    return max(own, key=lambda r: sign * r.mean), "highest" if sign > 0 else "lowest"


def table_lines(cells: Sequence[Cell]) -> list[str]:
    """Return the lines that are printed when a sweep ends."""
    rows = rows_of(cells)
    objective = next((cell.objective for cell in cells), None)
    metrics = dict.fromkeys(r.metric for r in rows)
    shown = [m for m in metrics if m == objective or m.endswith(SHOWN)] or list(metrics)[:3]
    table = [("cell", "metric", "mean", "interval", "over")]
    table += [
        (
            row.cell,
            row.metric,
            f"{row.mean:.4g}",
            interval_text(row),
            over_text(row),
        )
        for row in rows
        if row.metric in shown
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    lines += [
        f"{'stopped' if cell.error.startswith(STOPPED) else 'failed'}: {name} "
        f"{cell.repeat}: {cell.error}"
        for name, cell in zip(names_of(cells), cells, strict=True)
        if cell.error
    ]
    lines += [
        f"waiting: {name} {cell.repeat}: {cell.awaits}"
        for name, cell in zip(names_of(cells), cells, strict=True)
        if cell.awaits
    ]
    lines += [
        f"pruned: {name} {cell.repeat}: {cell.pruned}"
        for name, cell in zip(names_of(cells), cells, strict=True)
        if cell.pruned
    ]
    best = best_of(rows, objective)
    if best is not None:
        row, end = best
        told = undecided(row, [other for other in rows if other.metric == row.metric], end)
        lines.append(f"best by {row.metric} ({end}): {row.cell}{told}")
    return lines


def undecided(best: SweepRow, rows: Sequence[SweepRow], end: str) -> str:
    """Return what is to be said where the best row is not told from the second; "" where it is.

    Args: rows: of the metric, the best among them. end: highest or lowest is best.
    """
    sign = 1 if end == "highest" else -1
    second = max((row for row in rows if row is not best), key=lambda r: sign * r.mean)
    ends = (best.low, best.high, second.low, second.high)
    if None in ends:
        few = FOLDS if FOLDS in (best.over, second.over) else SEEDS
        return f"; whether it differs from {second.cell} is not known: too few {few}"
    apart = best.low > second.high if sign > 0 else best.high < second.low  # type: ignore[operator]
    told = "" if apart else f"; no more than the intervals allow from the second, {second.cell}"
    return told + ("; one seed each" if best.over == ITEMS else "")


def write_csv(path: Path, cells: Sequence[Cell]) -> None:
    """Write every row as CSV; what is unknown is empty."""
    rows = [asdict(row) for row in rows_of(cells)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(SweepRow.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(rows)
