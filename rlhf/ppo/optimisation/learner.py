"""What PPO trains, under one optimizer.

Policy and value model are separate models under one Adam with a group each (its moments are per
parameter, so this is two optimizers in one state).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from plumbrule.errors import ConfigError
from plumbrule.lm.loading import Policy, checkpoint_activations
from plumbrule.lm.parallel import fsdp
from rlhf.lr_schedules import lr_multiplier
from rlhf.ppo.optimisation.tensorflow_adam import TensorFlowAdam
from rlhf.ppo.options import SCHEDULES
from rlhf.ppo.value_model import ValueModel


@dataclass(frozen=True)
class Learner:
    """What PPO trains, and the optimizer: group 0 policy, group 1 value model if there is one."""

    policy: Policy
    value_model: ValueModel | None
    optimizer: torch.optim.Optimizer
    reader: Policy
    """The policy as it reads rollouts: itself, or its layers above the frozen ones."""

    @property
    def models(self) -> dict[str, nn.Module]:
        """The trained modules by name."""
        models: dict[str, nn.Module] = {"policy": self.policy.model}
        if self.value_model is not None:
            models["value model"] = self.value_model
        return models

    def checkpoint_activations(self) -> None:
        """Trade time for memory in all that is trained (`models.checkpoint_activations`)."""
        checkpoint_activations(self.reader.model)
        self.policy.model.train()  # or the sampler, when it is done, would set its layers back
        if self.value_model is not None and self.value_model.trunk is not None:
            checkpoint_activations(self.value_model.trunk)

    def training(self, update: int, value_warmup_updates: int) -> dict[str, nn.Module]:
        """Return the modules that `update` trains: during warm-up the value model alone."""
        models = self.models
        if update <= value_warmup_updates:
            del models["policy"]
        return models


def make_learner(
    policy: Policy,
    value_model: ValueModel | None,
    reader: Policy | None = None,
    *,
    learning_rate: float,
    value_learning_rate: float,
    adam: str,
    adam_epsilon: float,
) -> Learner:
    """Return a learner with a fresh Adam without weight decay.

    Args: reader: the policy as it reads rollouts; None: itself. adam: torch or tf.
    Raises: ConfigError: the policy has no parameter that may be trained.
    """
    groups = [{"name": "policy", "params": trainable(policy.model), "lr": learning_rate}]
    if not groups[0]["params"]:
        raise ConfigError("policy (=0 trainable parameters) must have some; unfreeze or merge it.")
    if value_model is not None:
        own = trainable(value_model)
        groups.append({"name": "value", "params": own, "lr": value_learning_rate})
    optimizer: torch.optim.Optimizer
    if adam == "torch":
        # one pass over the memory; but sharded weights and others don't share a kernel
        fused = not fsdp.is_sharded(policy.model)
        optimizer = torch.optim.Adam(groups, eps=adam_epsilon, fused=fused, foreach=False)
    else:
        optimizer = TensorFlowAdam(groups, eps=adam_epsilon)
    return Learner(policy, value_model, optimizer, reader or policy)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of `model` that training may move, tied ones once."""
    return [p for p in model.parameters() if p.requires_grad]


def learning_rates(
    update: int,
    num_updates: int,
    *,
    learning_rate: float,
    value_learning_rate: float,
    warmup_share: float,
    schedule: str,
) -> tuple[float, float]:
    """Return the rates of policy and value model for `update` (from 1) of `num_updates`.

    Args: learning_rate, value_learning_rate: at their highest. schedule: a name in `SCHEDULES`.
    """
    share = lr_multiplier(update - 1, num_updates, warmup_share, SCHEDULES[schedule])
    return learning_rate * share, value_learning_rate * share


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Set each group's rate: the policy's, and the value model's if there is one."""
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        group["lr"] = rate
