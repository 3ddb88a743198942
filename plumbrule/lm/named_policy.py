"""A policy beside the one that a stage trains: a judge, a teacher.

It is a node's input, made by a stage of this store, or any causal language model that a setting
names by its folder or hub name.
"""

from __future__ import annotations

import re

import torch

from plumbrule.errors import ConfigError
from plumbrule.lm.loading import Policy, load_policy
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import MODEL


def load_named(
    named: str | None,
    given: Artifact | None,
    setting: str,
    *,
    device: torch.device,
    revision: str | None = None,
    pad_token: str | None = None,
    precision: str = "float32",
) -> Policy:
    """Return the policy that `named` names, else that of the artifact `given`.

    Args: setting: the section of the config that holds `name_or_path`, `revision` and `pad_token`,
        for messages. precision: float32 or bfloat16, of the weights.
    Raises: ConfigError: it does not load; or neither is there.
    """
    if named is None and given is None:
        raise ConfigError(f"{setting}.name_or_path (=None) must name a model; give one.")
    try:
        return load_policy(
            given.file(MODEL) if named is None and given is not None else str(named),
            device=device,
            dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
            revision=revision,
            pad_token=pad_token,
        )
    except ConfigError as error:  # the loader's fields are those of `model`
        told = re.sub(r"\bmodel\.(name_or_path|revision|pad_token)", rf"{setting}.\1", str(error))
        raise ConfigError(told) from None
