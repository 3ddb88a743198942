"""PPO goes on where a finished run ended: more updates, and the KL still measured from the start.

    nodes.ppo_more.inputs: {policy: sft, continues: ppo, rm: rm, prompts: prompts}

`policy` is what it was for the first run: the policy that training began from, and so the
reference. `continues` is the finished run, which gives

- the weights of policy and value model;
- the number of updates done: the next one has the next number, and with it, under the same seed,
  batch size and samples per prompt, prompts and random numbers that were not used yet;
- the coefficients of KL and entropy, where `ppo.kl.target` and `ppo.entropy.target` steer them;
- with `ppo.keep_state`, Adam's moments and, beside an average that was published, the weights that
  were being trained.

With the state kept and a constant learning rate, two updates and then two more end with the very
weights of four. Without it, training goes on from the published weights with fresh moments.
Learning rates are those of a run of its own: `total_episodes`, schedule and `warmup_share` begin
here. `value_warmup_updates` counts from the first run's first update. With `ppo.staleness` the
first rollout here is sampled by the weights that are continued, so two and two are not quite four.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from plumbrule.errors import ConfigError
from plumbrule.lm.loading import load_policy
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import MODEL, STATE, VALUE, WEIGHTS
from plumbrule.store.json_files import write_json
from plumbrule.store.manifests import inputs_of
from rlhf.ppo.optimisation.learner import Learner
from rlhf.ppo.state import LoopState, State, put_optimizer, put_weights, trained, weights_file

SLOT = "continues"
CONTROL = "control.json"
AVERAGE, OPTIMIZER = "average.safetensors", "optimizer.safetensors"


class Start(NamedTuple):
    """Where a run begins."""

    updates: int
    """Done by the runs that it continues; its own first update has the next number."""
    control: LoopState
    average: dict[str, Tensor] | None = None
    """Of the weights, where one was kept."""


def write_end(out: Path, updates: int, control: LoopState, state: State | None) -> None:
    """Write what a later run needs to go on from this one: `state/`.

    Args: updates: all that were done. state: None keeps the published weights alone.
    """
    folder = out / STATE
    folder.mkdir(exist_ok=True)
    if state is not None:
        for name, weights in state.weights.items():
            save_file(weights, folder / weights_file(name))
        if state.average is not None:
            save_file(state.average, folder / AVERAGE)
        moments = {
            f"{number}.{name}": value.contiguous()
            for number, kept in state.optimizer["state"].items()
            for name, value in kept.items()
        }
        save_file(moments, folder / OPTIMIZER)
    coefficients = {"kl_coef": control.kl_coef, "entropy_coef": control.entropy_coef}
    write_json(folder / CONTROL, {"updates": updates, **coefficients})


def start_of(
    inputs: Mapping[str, Artifact], learner: Learner, first: LoopState, steered: Collection[str]
) -> Start:
    """Put the weights and moments of the run that is continued into `learner`, if there is one.

    Args: first: as configured. steered: which of `kl_coef` and `entropy_coef` updates change
    (`ppo.kl.target`, `ppo.entropy.target`): the run then goes on with the last one's.
    Raises: ConfigError: that run started from another policy, or trained other weights.
    """
    if SLOT not in inputs:
        return Start(0, first)
    before = inputs[SLOT]
    _check_reference(before, inputs["policy"])
    folder = before.file(STATE)
    ended = json.loads((folder / CONTROL).read_text(encoding="utf-8"))
    kept = (folder / OPTIMIZER).is_file()
    weights = _kept(folder, learner) if kept else _published(before, learner)
    _check_weights(before, learner, weights)
    put_weights(learner, weights)
    average = None
    if kept:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(folder / OPTIMIZER).items():
            number, _, of = name.partition(".")
            state.setdefault(int(number), {})[of] = value
        put_optimizer(learner, {**learner.optimizer.state_dict(), "state": state})
        if (folder / AVERAGE).is_file():
            average = load_file(folder / AVERAGE)
    control = dataclasses.replace(first, **{name: ended[name] for name in steered})
    return Start(ended["updates"], control, average)


def _kept(folder: Path, learner: Learner) -> dict[str, Mapping[str, Tensor]]:
    """Return the weights that were being trained, by model and name."""
    paths = {name: folder / weights_file(name) for name in learner.models}
    return {name: load_file(path) if path.is_file() else {} for name, path in paths.items()}


def _published(before: Artifact, learner: Learner) -> dict[str, Mapping[str, Tensor]]:
    """Return the published weights by model and name."""
    policy = load_policy(before.file(MODEL), device=torch.device("cpu"))
    found: dict[str, Mapping[str, Tensor]] = {"policy": dict(policy.model.named_parameters())}
    if learner.value_model is not None:
        name = f"{VALUE}/{WEIGHTS}"
        found["value model"] = load_file(before.file(name)) if before.has(name) else {}
    return found


def _check_reference(before: Artifact, policy: Artifact) -> None:
    """Raise ConfigError if the continued run is known to have started from another policy."""
    made_from = inputs_of(before.path)
    start = made_from.get("policy")
    if made_from and policy.fingerprint and start != policy.fingerprint:
        raise ConfigError(
            f"the input policy (={policy.kind} {policy.fingerprint}) must be the one that the "
            f"continued {before.kind} {before.fingerprint} started from (={start}): it is the "
            "reference of both; point the node's policy at that."
        )


def _check_weights(
    before: Artifact, learner: Learner, weights: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raise ConfigError unless every weight that is trained is there in its shape."""
    for name, model in learner.models.items():
        for of, parameter in trained(model).items():
            there = weights[name].get(of)
            if there is None or there.shape != parameter.shape:
                shape = "missing" if there is None else f"of shape {tuple(there.shape)}"
                raise ConfigError(
                    f"{of} of the {name} (={shape} in {before.kind} {before.path}) must be what "
                    f"this run trains, of shape {tuple(parameter.shape)}; leave ppo.adapter, "
                    "ppo.unfrozen_layers, ppo.value_trunk and ppo.advantage as they were."
                )
