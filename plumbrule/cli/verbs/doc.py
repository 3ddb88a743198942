"""`plumbrule doc`: what a setting is, or a group of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli import help_page
from plumbrule.cli.composition import composed_config
from plumbrule.cli.explain import explain
from plumbrule.errors import ConfigError
from plumbrule.pipeline.experiment import RunConfig


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("setting", nargs="?", default="", help="as ppo.kl or ppo.kl.coef")
    parser.add_argument("overrides", nargs="*", help="as experiment=own; default: the quickstart")


def run(options: argparse.Namespace) -> None:
    """Print what the setting is. Raises: ConfigError."""
    print(help_page.describe(options.setting, RunConfig, _composed(options.overrides)))


def _composed(overrides: Sequence[str]) -> help_page.ComposedConfig:
    """Return what a command composes to. Raises: ConfigError."""
    try:
        cfg = composed_config(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides)) from None
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return help_page.ComposedConfig(" ".join(overrides) or "experiment=quickstart", config)
