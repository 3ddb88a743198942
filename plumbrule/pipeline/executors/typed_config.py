"""A node's config from plain values, in a process that Hydra did not compose it in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from plumbrule.errors import ConfigError
from plumbrule.pipeline.experiment import as_json
from plumbrule.pipeline.stages import STAGES


def typed_config(kind: str, plain: Mapping[str, Any], where: str) -> Any:
    """Return the dataclass of a stage's config.

    Args: plain: `dataclasses.asdict` of it, as JSON reads it back. where: for the error.
    Raises: ConfigError: it comes out otherwise than it was planned.
    """
    schema = OmegaConf.structured(STAGES[kind].config)
    config = OmegaConf.to_object(OmegaConf.merge(schema, plain))
    if json.loads(json.dumps(as_json(config))) != plain:
        raise ConfigError(
            f"config of {where} must be what the run planned, but a plug-in was edited since; run "
            "the same command again."
        )
    return config
