"""A sweep over all its cells, launched in their order, with what its file gains meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from plumbrule.cli.messages import say
from plumbrule.cli.sweeps.configs import own_words
from plumbrule.cli.sweeps.words import require_count
from plumbrule.errors import ConfigError
from plumbrule.results.cells import PLANNED
from plumbrule.results.sweep_axes import SWEEP_FILE, cells_of_sweep

Launch = Callable[..., Sequence[JobReturn]]
"""What a launcher of Hydra does with the overrides of some cells and the number of the first."""


def launch_grid(
    loader: Any, config: DictConfig, launch: Launch, at_once: int | None
) -> list[Sequence[JobReturn]]:
    """Launch all cells of a sweep and return what each batch of them gave back.

    The sweep's file is read again after each batch: cells that were added follow, those that were
    taken out and not yet launched are left out.

    Args: config: of the sweep; its part `hydra.sweeper` is that of the file as it was last read.
    Raises: ConfigError: as `cells_of_sweep`. HydraException: a word can't be read.
    """
    require_count("at_once", at_once)
    cells = cells_of_sweep(_container(config), loader)
    launched: list[tuple[str, ...]] = []
    returned = []
    while todo := [cell for cell in cells if cell not in launched]:
        batch = todo[:at_once]
        returned.append(launch([list(cell) for cell in batch], initial_job_idx=len(launched)))
        for one in returned[-1]:
            _ = one.return_value  # raises what ended a cell in another launcher's process
        launched += batch
        cells = _read_again(loader, config, cells, launched)
    return returned


def _read_again(
    loader: Any,
    config: DictConfig,
    cells: list[tuple[str, ...]],
    launched: Sequence[tuple[str, ...]],
) -> list[tuple[str, ...]]:
    """Return the cells of a sweep by its file as it is now, and say what has changed."""
    said = config.hydra.overrides
    file = next((word for word in said.task if word.startswith(SWEEP_FILE)), None)
    if file is None:
        return cells
    try:
        now = loader.load_configuration(
            config.hydra.job.config_name, [*said.hydra, *said.task], run_mode=RunMode.MULTIRUN
        )
        found = cells_of_sweep(_container(now), loader)
    except (ConfigError, HydraException, OmegaConfBaseException, YAMLError) as error:
        told = " ".join(str(error).split())
        say(f"{file} can't be read again, so the sweep goes on as it was: {told}")
        return cells
    added = [cell for cell in found if cell not in cells and cell not in launched]
    removed = [cell for cell in cells if cell not in found and cell not in launched]
    if added or removed:
        with flag_override(config.hydra, ["readonly", "struct"], [False, False]):
            config.hydra.sweeper = now.hydra.sweeper
        OmegaConf.save(config, Path(config.hydra.sweep.dir) / PLANNED)
        for change, which in (("added", added), ("removed, so skipped", removed)):
            if which:
                say(f"{file} was edited: {len(which)} cells {change}: {_named(which, found)}")
    return found


def _named(cells: Sequence[tuple[str, ...]], every: Sequence[tuple[str, ...]]) -> str:
    words = own_words([*cells, *(cell for cell in every if cell not in cells)])
    return "; ".join(words[: len(cells)])


def _container(config: DictConfig) -> Any:
    return OmegaConf.to_container(config.hydra, resolve=False)
