"""A sweep: all cells are checked before the first, each leaves a file, a table ends it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.composition import CONF, DRY, SWEEP_FOLDERS, composed_config
from plumbrule.cli.explain import explain
from plumbrule.cli.messages import say
from plumbrule.errors import ConfigError, NeedsInput, TrainingError
from plumbrule.pipeline.compose import compose_run
from plumbrule.report.sweep_table import STOPPED, Cell, find_cells, table_lines, write_csv
from plumbrule.store.fingerprint import digest

SWEEP = "PLUMBRULE_SWEEP"
"""Names the sweep that a cell belongs to, also where a launcher runs cells in other processes."""
FAILURE = "failure.json"
FOLDER_OPTIONS = ("--config-dir", "-cd")
OTHER_OPTIONS = ("--config-name", "-cn", "--config-path", "-cp", "--package", "-p")
MOST_SHOWN = 6
"""Cells that an error lists."""


class SweepCell(NamedTuple):
    """The cell of a sweep that a run is, and its folder in the sweep's."""

    about: Cell
    folder: Path


def check_cells(words: Sequence[str]) -> None:
    """Compose and check every cell of a sweep, before the first is built.

    Args: words: of the command line. A sweeper that chooses cells as it goes is not asked.
    Raises: ConfigError: some cells can't run, all of them in one message. HydraException.
    """
    cells = cells_of(words)
    first: DictConfig | None = None
    wrong: list[tuple[dict[str, str], str]] = []
    for cell in cells:
        overrides = [f"{key}={value}" for key, value in cell.items()]
        try:
            if first is None or not all(_is_plain(key) for key in _changed(cell, cells[0])):
                cfg = composed_config(overrides)
                first = cfg if cell is cells[0] else first
            else:
                cfg = copy.deepcopy(first)
                for key, override in _changed(cell, cells[0]).items():
                    OmegaConf.update(cfg, key, _value_of(key, override))
            compose_run(cfg)
        except (HydraException, OmegaConfBaseException) as error:
            wrong.append((cell, explain(error, overrides)))
        except ConfigError as error:
            wrong.append((cell, str(error)))
    messages = {message for _, message in wrong}
    if len(messages) == 1 and len(wrong) == len(cells):
        raise ConfigError(messages.pop())
    if wrong:
        told = [f"({_own_words(cell, cells)}) {said}" for cell, said in wrong[:MOST_SHOWN]]
        more = f" and {len(wrong) - MOST_SHOWN} more" if len(wrong) > MOST_SHOWN else ""
        raise ConfigError(
            f"{len(wrong)} of {len(cells)} cells can't run, so none was started: "
            f"{' '.join(told)}{more}"
        )


def _own_words(cell: Mapping[str, str], cells: Sequence[Mapping[str, str]]) -> str:
    """Return the overrides of a cell that not all cells have."""
    own = [key for key in cell if len({other.get(key) for other in cells}) > 1]
    return " ".join(f"{key}={cell[key]}" for key in own)


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
        elif option in OTHER_OPTIONS or word.startswith("hydra/sweeper"):
            return []
        elif not word.startswith("-"):
            overrides.append(word)
    parsed: list[Override] = OverridesParser.create().parse_overrides(overrides)
    (cells,) = BasicSweeper.split_arguments(parsed, None)
    return [dict(o.split("=", 1) for o in cell) for cell in cells]


def _changed(cell: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Return the overrides of a cell that another does not have."""
    return {key: value for key, value in cell.items() if other.get(key) != value}


def _is_plain(key: str) -> bool:
    """Return whether an override sets a value, rather than adding one or choosing a file."""
    return key[0].isalpha() and not set(key) & set("@/") and not (CONF / key).is_dir()


def _value_of(key: str, value: str) -> object:
    return OverridesParser.create().parse_override(f"{key}={value}").value()


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
