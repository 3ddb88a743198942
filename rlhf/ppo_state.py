"""What a PPO checkpoint holds, so that a killed run ends with the very bytes of one that was not.

Weights of policy and value model (those that are trained), their average if one is kept, Adam's
moments, and the `Control` of the run: the KL coefficient, why it stopped if it did, and the metrics
of the last update. There is no random state: every random number is keyed by (seed, update, prompt,
sample, token) or by (seed, update, epoch). There is no data cursor: it follows from the update.
There is no learning rate: it is set anew for each update.

Sums over processes depend in their last digits on how many there are, so the bytes belong to a
topology, which the checkpoint names; another one is refused rather than resumed nearly right.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from plumbrule import distributed
from plumbrule.errors import ConfigError
from rlhf.averaging import AveragedWeights
from rlhf.ppo_step import Learner


@dataclass(frozen=True)
class Control:
    """What one update hands to the next, besides the models."""

    kl_coef: float
    """Of the next update."""
    stopped: str = ""
    """Why no update follows; empty: one does, unless the episodes are used up."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last update."""


def topology(learner: Learner) -> dict[str, int | str]:
    """Return what the order of sums depends on: processes and the kind of device."""
    device = learner.policy.model.device
    return {"processes": distributed.world_size(), "device": device.type}


def save_state(
    folder: Path, learner: Learner, control: Control, average: AveragedWeights | None = None
) -> None:
    """Write all of it into `folder`."""
    for name, model in learner.models.items():
        weights = {n: p.detach().contiguous() for n, p in trained(model).items()}
        save_file(weights, folder / f"{name.replace(' ', '_')}.safetensors")
    if average is not None:
        save_file(average.average, folder / "average.safetensors")
    torch.save(learner.optimizer.state_dict(), folder / "optimizer.pt")
    state = {**dataclasses.asdict(control), "topology": topology(learner)}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def load_state(folder: Path, learner: Learner, average: AveragedWeights | None = None) -> Control:
    """Put what `save_state` wrote into `learner` and `average`; return the control.

    Raises: ConfigError: it was written under another topology.
    """
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    before, now = state.pop("topology"), topology(learner)
    if before != now:
        raise ConfigError(
            f"{folder} was written by {_describe(before)}, and this run has {_describe(now)}; a "
            "resumed run would not end with the same bytes. Start it as before, or remove the "
            "checkpoints."
        )
    for name, model in learner.models.items():
        saved = load_file(folder / f"{name.replace(' ', '_')}.safetensors")
        with torch.no_grad():
            for of, parameter in trained(model).items():
                parameter.copy_(saved[of])
    if average is not None:
        average.load(load_file(folder / "average.safetensors"))
    optimizer = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    learner.optimizer.load_state_dict(optimizer)
    return Control(**state)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` that training moves, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _describe(where: dict[str, int | str]) -> str:
    number = where["processes"]
    return f"{number} process{'es' if number != 1 else ''} on {where['device']}"
