"""Which cells a sweep has: a grid of values, with named axes, or those that a search chooses.

The launcher composes all cells itself, and says in one message what is wrong with any of them.
Hydra imports this module in every program of the environment that uses Hydra, so it imports nothing
of ours before it is asked to sweep.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.plumbrule_launcher.launcher import PlumbruleLauncher

PRUNER = ("pruner", "pruner_metric", "pruner_start", "pruner_trials", "pruner_factor")
NAMES = ("max_batch_size", "params", "zip", "alone", "first", "search", "trials", "study", *PRUNER)
SETTINGS: dict[str, Any] = dict.fromkeys(NAMES)

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="plumbrule",
    node={"_target_": f"{__name__}.PlumbruleSweeper", **SETTINGS},
    provider="plumbrule",
)


class PlumbruleSweeper(Sweeper):
    """Each combination of the values that the command and a file of conf/sweep give.

    Args: max_batch_size: cells that the launcher gets at once; None: all. params: setting ->
    values. zip: name -> settings that change together. alone: name -> changes of a baseline, each
    by itself. first: overrides of the cells that come first. search: how Optuna chooses the
    cells; None: all are launched. trials: how many it has in all. study: name of its journal.
    pruner: what stops trials early, and its settings (`plumbrule/cli/sweeps/pruning.py`).
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: Mapping[str, Any] | None = None,
        zip: Mapping[str, Any] | None = None,
        alone: Mapping[str, Any] | None = None,
        first: Any = None,
        search: str | None = None,
        trials: int | None = None,
        study: str | None = None,
        pruner: str | None = None,
        pruner_metric: str | None = None,
        pruner_start: int | None = None,
        pruner_trials: int | None = None,
        pruner_factor: int | None = None,
    ):
        # The rest is read from the config, which may be read again.
        self.at_once, self.search = max_batch_size, search

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what `sweep` needs, and make the launcher."""
        self.loader, self.config = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the cells and return what each gave back.

        Args: arguments: the command's words for the cells, as `hydra.overrides.task` has them.
        """
        from plumbrule.cli.sweeps.grid import launch_grid
        from plumbrule.cli.sweeps.search import launch_search

        assert self.config is not None
        assert self.launcher is not None  # Hydra calls setup first
        folder = Path(self.config.hydra.sweep.dir)
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        planned = folder / "multirun.yaml"
        OmegaConf.save(self.config, planned)
        try:
            if self.search is not None:
                own = isinstance(self.launcher, PlumbruleLauncher)
                return launch_search(self.loader, self.config, self.launcher.launch, own)
            return launch_grid(self.loader, self.config, self.launcher.launch, self.at_once)
        except Exception:
            if made and [path.name for path in folder.iterdir()] == [planned.name]:
                planned.unlink()  # no cell was begun: what was refused leaves nothing
                with contextlib.suppress(OSError):  # another command has put something there
                    for path in made:
                        path.rmdir()
            raise
