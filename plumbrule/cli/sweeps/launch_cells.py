"""The cells of a sweep as one graph: composed, checked and planned together, then carried out.

Called by the launcher `hydra_plugins/plumbrule_launcher`, whichever sweeper chose the cells. None
is started unless all compose. A cell whose data or models turn out to be wrong in its plan leaves
`failure.json`, as one that fails later does; the others go on.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plumbrule.cli.messages import say
from plumbrule.cli.progress_table import start_table
from plumbrule.cli.runs import Run, require_ready
from plumbrule.cli.submitted import take_log
from plumbrule.cli.sweeps.cell_files import SWEEP, SweepCell, forget_earlier, leave_failure
from plumbrule.cli.sweeps.command import note_folder
from plumbrule.cli.sweeps.configs import CellConfig, compose_cells, own_words
from plumbrule.cli.sweeps.sweep_plan import print_sweep_plan
from plumbrule.cli.sweeps.undone import refuse_same
from plumbrule.errors import ConfigError
from plumbrule.pipeline.executors.carry_out import carry_out
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.merged_graph import EarlyStop
from plumbrule.pipeline.plan import Lookups
from plumbrule.pipeline.plan_facts import preview_data
from plumbrule.report.sweep_table import Cell
from plumbrule.results.sweep_axes import labels_of, named_axes
from plumbrule.store.artifacts import Store
from plumbrule.store.layout import store_root


def launch(
    loader: Any,
    master: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    early_stop: EarlyStop | None = None,
) -> list[float | None]:
    """Carry out cells and return `run.objective` of each: NaN of one that failed, None without one.

    Args: loader: Hydra's, of configs. master: the config of the sweep itself. first: number of the
    first of these cells in the sweep. early_stop: may want cells stopped before they are done.
    Raises: ConfigError: a cell can't be composed, or two would write one folder; none was started.
    """
    cells = compose_cells(loader, master, job_overrides, first)
    require_folders_apart(cells)
    executor = _executor_of(cells)
    words = own_words([cell.overrides for cell in cells])
    refuse_same([(c.composed.config, text, c.undone) for c, text in zip(cells, words, strict=True)])
    lookups = Lookups()
    sweeper: Any = OmegaConf.to_container(master.hydra.sweeper)
    axes = named_axes(sweeper)
    zipped = [labels_of(axes, cell.overrides) for cell in cells]
    runs = [plan_cell(cell, lookups, at) for cell, at in zip(cells, zipped, strict=True)]
    planned = [(text, run) for text, run in zip(words, runs, strict=True) if run is not None]
    dry = all(cell.composed.config.run.dry for cell in cells)
    total, seconds = print_sweep_plan(planned)
    if dry:
        return [None for _ in cells]
    planned = [(text, run) for text, run in planned if _is_ready(run)]
    sweep, config = os.environ.get(SWEEP, ""), cells[0].composed.config
    log = cells[0].folder.parent / f"{sweep}.log"
    take_log(log, sweep, Path(store_root(config.run.store)).resolve())
    with (
        contextlib.redirect_stdout(sys.stderr),  # libraries print to it on their own
        start_table(executor, say, total, [text for text, _ in planned], seconds) as table,
    ):
        ready = [run for _, run in planned]
        if early_stop is not None:
            early_stop.begin({run.cell.about.number: run for run in ready if run.cell is not None})
        carry_out(ready, executor, table, table.say, early_stop)
    return [float("nan") if run is None or run.error else run.objective for run in runs]


def require_folders_apart(cells: Sequence[CellConfig]) -> None:
    """Raise ConfigError if two cells would write one folder: they are the same cell, or are named
    by what they have in common.
    """
    seen: dict[str, CellConfig] = {}
    for cell in cells:
        other = seen.setdefault(str(cell.folder), cell)
        if other is not cell:
            raise ConfigError(
                f"cells {other.number} ({' '.join(other.overrides)}) and {cell.number} "
                f"({' '.join(cell.overrides)}) must not write one folder, {cell.folder}; take one "
                "out, or let hydra.sweep.subdir tell them apart."
            )


def _executor_of(cells: Sequence[CellConfig]) -> ExecutorConfig:
    found = [cell.composed.config.executor for cell in cells]
    if any(other != found[0] for other in found):
        raise ConfigError(
            "executor must be the same for all cells of a sweep; take it out of what is swept."
        )
    return found[0]


def plan_cell(cell: CellConfig, lookups: Lookups, zipped: dict[str, dict[str, str]]) -> Run | None:
    """Return a cell's run; None where its plan shows that it can't run, which it then says."""
    config = cell.composed.config
    store = Store(store_root(config.run.store))
    sweep, objective = os.environ.get(SWEEP, ""), config.run.objective
    about = Cell(
        sweep,
        cell.number,
        list(cell.overrides),
        objective,
        zipped=zipped,
        fold=config.fold,
        folds=config.folds,
    )
    own = SweepCell(about, cell.folder)
    if not config.run.dry:
        store.require_writable()
        cell.folder.mkdir(parents=True, exist_ok=True)
        forget_earlier(cell.folder)
        note_folder(cell.folder.parent)
    try:
        run = Run(cell.composed, list(cell.overrides), store, own, lookups)
        preview_data(config, run.plan, lookups)
        run.notes()
    except Exception as error:  # the boundary of a sweep cell: the other cells go on
        if config.run.dry:
            raise
        leave_failure(own, error)
        return None
    return run


def _is_ready(run: Run) -> bool:
    try:
        require_ready(run.config, run.plan)
    except Exception as error:  # the boundary of a sweep cell: the other cells go on
        run.fail(error)
        return False
    return True
