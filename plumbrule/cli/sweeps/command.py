"""A sweep: all cells are checked before the first, each leaves a file, a table ends it."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.composition import DRY, SWEEP_FOLDERS, composed_config
from plumbrule.cli.explain import explain
from plumbrule.cli.messages import say
from plumbrule.cli.sweeps.configs import changed_words, is_plain, own_words, refuse, value_of
from plumbrule.errors import ConfigError, NeedsInput, TrainingError
from plumbrule.pipeline.compose import compose_run
from plumbrule.report.sweep_table import STOPPED, find_cells, table_lines, write_csv
from plumbrule.store.fingerprint import digest

FOLDER_OPTIONS = ("--config-dir", "-cd")
OTHER_OPTIONS = ("--config-name", "-cn", "--config-path", "-cp", "--package", "-p")

OTHER_CELLS = ("hydra/sweeper", "++hydra.sweeper.", "sweep=")
"""How words begin with which the cells are not the grid of the command alone."""


def check_cells(words: Sequence[str]) -> None:
    """Compose and check every cell of a sweep, before the first is built.

    Ours does it by itself; this is for other launchers, which start the cells one by one.

    Args: words: of the command line. A sweeper that chooses cells as it goes is not asked.
    Raises: ConfigError: some cells can't run, all of them in one message. HydraException.
    """
    cells = cells_of(words)
    first: DictConfig | None = None
    wrong: list[tuple[int, str]] = []
    for place, cell in enumerate(cells):
        overrides = [f"{key}={value}" for key, value in cell.items()]
        try:
            changed = changed_words(cell, cells[0])
            if first is None or not all(map(is_plain, changed)):
                cfg = composed_config(overrides)
                first = cfg if cell is cells[0] else first
            else:
                cfg = copy.deepcopy(first)
                for key, override in changed.items():
                    OmegaConf.update(cfg, key, value_of(key, override))
            compose_run(cfg)
        except (HydraException, OmegaConfBaseException) as error:
            wrong.append((place, explain(error, overrides)))
        except ConfigError as error:
            wrong.append((place, str(error)))
    refuse(wrong, own_words([[f"{key}={value}" for key, value in c.items()] for c in cells]))


def cells_of(words: Sequence[str]) -> list[dict[str, str]]:
    """Return key -> value of each cell, as Hydra's own sweeper makes them; none for another one.

    Raises: HydraException: a word can't be read.
    """
    overrides: list[str] = []
    given = iter(words)
    for word in given:
        option, equals, value = word.partition("=")
        if option in FOLDER_OPTIONS:
            folder = Path(value if equals else next(given, "")).resolve()
            overrides.append(f"hydra.searchpath=[file://{folder}]")
        elif option in OTHER_OPTIONS or word.startswith(OTHER_CELLS):
            return []
        elif not word.startswith("-"):
            overrides.append(word)
    parsed: list[Override] = OverridesParser.create().parse_overrides(overrides)
    (cells,) = BasicSweeper.split_arguments(parsed, None)
    return [dict(o.split("=", 1) for o in cell) for cell in cells]


def note_folder(folder: Path) -> None:
    """Tell the command that started the sweep where this cell's sweep lies."""
    noted = os.environ.get(SWEEP_FOLDERS)
    if noted is not None:
        path = Path(noted) / digest(str(folder))[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(folder.resolve()), encoding="utf-8")


def end_sweep(sweep: str, noted: Path) -> None:
    """Print a sweep's table and write all of it as CSV beside its cells.

    Raises: TrainingError: a cell failed. NeedsInput: none did, and one waits for a person.
    """
    notes = [path for path in sorted(noted.iterdir()) if path.is_file()]
    folders = [Path(path.read_text(encoding="utf-8")) for path in notes]
    cells, folder = find_cells(folders, sweep)
    if folder is None:
        return  # dry, or refused before its first cell
    print("\n".join(table_lines(cells)))
    if folder != (noted / DRY).resolve():
        path = folder / f"{sweep}.csv"
        write_csv(path, cells)
        say(f"all metrics of the sweep: {path}")
    failed = [
        " ".join(cell.overrides)
        for cell in cells
        if cell.error and not cell.error.startswith(STOPPED)
    ]
    if failed:
        raise TrainingError(f"{len(failed)} cell(s) failed: {'; '.join(failed)}")
    waiting = [cell.awaits for cell in cells if cell.awaits]
    if waiting:
        raise NeedsInput(folder, waiting[0])
