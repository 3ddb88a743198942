"""Hydra's grid of values, without its composing every cell before it hands them to the launcher.

The launcher composes all cells itself, and says in one message what is wrong with any of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="plumbrule",
    node={"_target_": f"{__name__}.PlumbruleSweeper", "max_batch_size": None, "params": None},
    provider="plumbrule",
)


class PlumbruleSweeper(BasicSweeper):
    """Each combination of the values that the command line gives."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Leave it to the launcher."""
