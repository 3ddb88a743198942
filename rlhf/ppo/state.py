"""What a PPO checkpoint holds, so that a killed run ends with the very bytes of one that was not.

Weights of policy and value model (those that are trained), their average if one is kept, Adam's
moments, and the `LoopState`: the KL coefficient, why the run stopped if it did, and the last
update's metrics. There is no random state: every random number is keyed by (seed, update, draw,
prompt, sample, token) or by (seed, update, epoch). There is no data cursor: it follows from the
update. There is no learning rate: it is set anew for each update. With `ppo.staleness` the batch of
the next update is there as well, since the weights that sampled it are not.

Sums over processes depend in their last digits on how many there are, so the bytes belong to a
topology, which the checkpoint names; another one is refused rather than resumed nearly right.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plumbrule.errors import ConfigError
from plumbrule.lm.parallel import distributed, fsdp
from plumbrule.protocols import Tracker
from plumbrule.store import checkpoints
from plumbrule.store.file_names import CHECKPOINTS, ROLLOUTS
from rlhf.ppo.optimisation.learner import Learner
from rlhf.ppo.optimisation.weight_average import AveragedWeights
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.batches import Batch, load_batch, save_batch


@dataclass(frozen=True)
class LoopState:
    """What one update hands to the next, besides the models."""

    kl_coef: float
    """Of the next update."""
    stopped: str = ""
    """Why no update follows; empty: one does, unless the episodes are used up."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last update."""
    entropy_coef: float = 0.0
    """Of the next update."""


class State(NamedTuple):
    """What a checkpoint holds of the models, every tensor whole."""

    weights: dict[str, dict[str, Tensor]]
    """Of each trained module by name, its trained parameters by name."""
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    topology: dict[str, int | str]


def topology(learner: Learner) -> dict[str, int | str]:
    """Return what the order of sums depends on: processes, how they share, the kind of device."""
    device = learner.policy.model.device
    where: dict[str, int | str] = {"processes": distributed.world_size(), "device": device.type}
    if fsdp.is_sharded(learner.policy.model):
        where["sharding"] = "fsdp"
    return where


def state_of(learner: Learner, average: AveragedWeights | None = None) -> State:
    """Return what the main process is to save; every process must come here."""
    return State(
        weights_of(learner),
        None if average is None else fsdp.whole(average.average),
        fsdp.whole(learner.optimizer.state_dict()),
        topology(learner),
    )


def weights_of(learner: Learner) -> dict[str, dict[str, Tensor]]:
    """Return all trained weights in one piece, by model and name; every process must come here."""
    return {
        name: {of: fsdp.whole(p.detach()).contiguous() for of, p in trained(model).items()}
        for name, model in learner.models.items()
    }


def save_state(folder: Path, state: State, control: LoopState) -> None:
    """Write all of it into `folder`."""
    for name, weights in state.weights.items():
        save_file(weights, folder / weights_file(name))
    if state.average is not None:
        save_file(state.average, folder / "average.safetensors")
    torch.save(state.optimizer, folder / "optimizer.pt")
    saved = {**dataclasses.asdict(control), "topology": state.topology}
    (folder / "state.json").write_text(json.dumps(saved), encoding="utf-8")


def load_state(folder: Path, learner: Learner, average: AveragedWeights | None = None) -> LoopState:
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
    put_weights(learner, {name: load_file(folder / weights_file(name)) for name in learner.models})
    if average is not None:
        average.load(load_file(folder / "average.safetensors"))
    path = folder / "optimizer.pt"
    put_optimizer(learner, torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    return LoopState(**state)


def weights_file(model: str) -> str:
    """Return the name of the file that holds the trained weights of a model, `value model` too."""
    return f"{model.replace(' ', '_')}.safetensors"


def put_optimizer(learner: Learner, optimizer: dict[str, Any]) -> None:
    """Replace the optimizer's state by `State.optimizer`."""
    every = [p for group in learner.optimizer.param_groups for p in group["params"]]
    for number, kept in optimizer["state"].items():
        for name, value in kept.items():
            if value.shape == every[number].shape:  # a moment, and not the count of steps
                kept[name] = fsdp.shard_like(value, every[number])
    learner.optimizer.load_state_dict(optimizer)


@torch.no_grad()
def put_weights(learner: Learner, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Replace all that is trained by `State.weights`."""
    for name, model in learner.models.items():
        for of, parameter in trained(model).items():
            parameter.copy_(fsdp.shard_like(weights[name][of], parameter))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` that training moves, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _describe(where: dict[str, int | str]) -> str:
    number = where["processes"]
    how = ", weights spread over them," if "sharding" in where else ""
    return f"{number} process{'es' if number != 1 else ''}{how} on {where['device']}"


class Resumed(NamedTuple):
    """Where a run goes on."""

    update: int
    """The last one that is done."""
    control: LoopState
    batch: Batch | None = None
    """Of the next update, where it was sampled already."""


def resume(
    out: Path,
    learner: Learner,
    average: AveragedWeights | None,
    first: LoopState,
    num_done: int,
    tracker: Tracker,
) -> Resumed:
    """Load the newest checkpoint and forget what came after it; return where it goes on.

    Args: first, num_done: where the run begins, returned without a checkpoint.
    """
    newest = checkpoints.newest(out / CHECKPOINTS)
    found = Resumed(num_done, first)
    if newest is not None:
        control = load_state(newest[1], learner, average)
        found = Resumed(newest[0], control, load_batch(newest[1], learner.policy.model.device))
    distributed.barrier()  # nobody writes before everybody has read
    tracker.rewind(found.update)
    if distributed.is_main():
        parquet.remove_after(out / ROLLOUTS, found.update)
    return found


def checkpoint(
    out: Path,
    learner: Learner,
    average: AveragedWeights | None,
    control: LoopState,
    update: int,
    batch: Batch | None = None,
) -> None:
    """Save everything as it is after `update`. Args: batch: of the next one, if it is there."""
    state = state_of(learner, average)

    def write(folder: Path) -> None:
        save_state(folder, state, control)
        if batch is not None:
            save_batch(batch, folder)

    if distributed.is_main():
        checkpoints.save(out / CHECKPOINTS, update, write)
    distributed.barrier()
