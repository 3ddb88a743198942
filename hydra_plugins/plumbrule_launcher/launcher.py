"""A Hydra launcher that hands all cells of a sweep to one executor as one graph.

Any sweeper works with it: it gives the launcher some cells, which are composed, checked and planned
together, and gets `run.objective` of each back. Hydra imports this module in every program of the
environment that uses Hydra, so it imports nothing of ours before it is asked to launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(  # it has no settings: `executor` of the cells says who builds
    group="hydra/launcher",
    name="plumbrule",
    node={"_target_": f"{__name__}.PlumbruleLauncher"},
    provider="plumbrule",
)


class PlumbruleLauncher(Launcher):
    """Carries the cells of `plumbrule -m` out as one graph."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what `launch` needs. Raises: RuntimeError: the program is not plumbrule."""
        if task_function.__module__ != "plumbrule.cli.main":
            raise RuntimeError("hydra/launcher=plumbrule launches cells of plumbrule alone.")
        self.config, self.hydra_context = config, hydra_context

    def launch(
        self,
        job_overrides: Sequence[Sequence[str]],
        initial_job_idx: int,
        early_stop: Any = None,
    ) -> Sequence[JobReturn]:
        """Carry the cells out and return the objective of each, NaN of one that failed.

        Args: early_stop: may want cells stopped before they are done; an `EarlyStop`.
        """
        from plumbrule.cli.sweeps.launch_cells import launch

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        loader = self.hydra_context.config_loader
        objectives = launch(loader, self.config, job_overrides, initial_job_idx, early_stop)
        return [
            JobReturn(
                overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=objective
            )
            for overrides, objective in zip(job_overrides, objectives, strict=True)
        ]
