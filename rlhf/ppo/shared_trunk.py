"""What policy, reference and value model have in common, so that it is kept and computed once.

Plain PPO holds the policy, a copy of it as the reference and a value model with a trunk of its own.
Three settings share more, each exact: the same numbers as separate models under the same training.

- `ppo.adapter.rank`: the policy learns low-rank adapters (Hu et al. 2021, arXiv:2106.09685), and
  the reference is the policy with the adapters off. A policy that came with an adapter and trains
  it on has a reference of its own: with that adapter off it would be its base.
- `ppo.unfrozen_layers`: only the top layers learn. The frozen ones below are one for all and
  stay as they are, so what they make of a rollout is computed once and read by the reference, by
  the value model and in every epoch; backward passes end where they begin.
- `ppo.value_trunk`: `own` a whole model; `branch` top layers of its own on the frozen layers;
  `policy` a head on the policy's hidden states, whose gradient then moves the policy's trunk as
  well.

A part of a model comes from `clone_sharing_weights` (`plumbrule/lm/frozen_layers.py`): the same
module with some children replaced, which shares all others.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar, cast

from torch import nn
from transformers import PreTrainedModel

from plumbrule.lm.adapters import as_inherited, prepare_training
from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.frozen_layers import (
    LAYERS,
    FrozenLayers,
    check_split,
    clone_sharing_weights,
    parts_of,
)
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import trunk

M = TypeVar("M", bound=nn.Module)
SETTING = "ppo.unfrozen_layers"


class ReferencePolicy(NamedTuple):
    """The policy as it was before training."""

    policy: Policy
    """Answers prompts, inside `context`."""
    reader: Policy
    """Reads rollouts, inside `context`: the whole policy, or its layers above the frozen ones."""
    context: Callable[[], AbstractContextManager[None]] = nullcontext


class Actors(NamedTuple):
    """Who takes part in PPO beside the reward."""

    policy: Policy
    reader: Policy
    """The policy as it reads rollouts: whole, or its layers above the frozen ones."""
    reference: ReferencePolicy
    frozen_layers: FrozenLayers | None = None


def make_actors(
    policy: Policy,
    load: Callable[[], Policy],
    *,
    adapter: AdapterConfig,
    unfrozen_layers: int | None,
    seed: int,
) -> Actors:
    """Return the policy with what is trained of it, and its reference.

    Args: load: returns the policy once more, for a reference of its own. unfrozen_layers: top
    layers that are trained; None: all. seed: of a fresh adapter.
    Raises: ConfigError: the model can't be shared in that way.
    """
    if unfrozen_layers is not None:
        return _on_frozen_layers(as_inherited(policy, adapter), unfrozen_layers)
    policy = prepare_training(policy, adapter, seed, "ppo.adapter")
    if adapter.rank:  # fresh: without them the policy is what it was
        off = ReferencePolicy(policy, policy, lambda: _adapter_off(policy))
        return Actors(policy, policy, off)
    reference = as_inherited(load(), adapter)
    return Actors(policy, policy, ReferencePolicy(reference, reference))


def _adapter_off(policy: Policy) -> AbstractContextManager[None]:
    return cast(AbstractContextManager[None], policy.model.disable_adapter())


def _on_frozen_layers(policy: Policy, top: int) -> Actors:
    """Return actors of which only `top` layers, the last normalisation and an untied head learn."""
    lm = policy.model
    whole = trunk(lm)
    lower, upper, norm, norm_name = parts_of(lm, top, SETTING, policy.source)
    frozen_layers = FrozenLayers(
        clone_sharing_weights(whole, **{LAYERS: lower, norm_name: nn.Identity()}), policy.pad_id
    )

    lm.requires_grad_(False)
    upper.requires_grad_(True)
    norm.requires_grad_(True)
    own_head = {}
    head = lm.get_output_embeddings()
    if head.weight is not lm.get_input_embeddings().weight:
        head.requires_grad_(True)
        name = next(n for n, module in lm.named_children() if module is head)
        own_head[name] = _frozen_copy(head)

    old_upper, old_norm = _frozen_copy(upper), _frozen_copy(norm)
    both = nn.ModuleList([*lower, *old_upper])
    prefix = lm.base_model_prefix
    before = clone_sharing_weights(whole, **{LAYERS: both, norm_name: old_norm})
    before_top = clone_sharing_weights(whole, **{LAYERS: old_upper, norm_name: old_norm})
    reference = ReferencePolicy(
        _with_model(policy, clone_sharing_weights(lm, **{prefix: before}, **own_head)),
        _with_model(policy, clone_sharing_weights(lm, **{prefix: before_top}, **own_head)),
    )
    reader = _with_model(
        policy,
        clone_sharing_weights(lm, **{prefix: clone_sharing_weights(whole, **{LAYERS: upper})}),
    )
    check_split(whole, frozen_layers, trunk(reader.model), SETTING)
    return Actors(policy, reader, reference, frozen_layers)


def branch_of(actors: Actors) -> nn.Module:
    """Return a trainable copy of the policy's layers above the frozen ones."""
    top = trunk(actors.reader.model)
    embeddings = cast(PreTrainedModel, top).get_input_embeddings()
    unused = {name: None for name, module in top.named_children() if module is embeddings}
    return copy.deepcopy(clone_sharing_weights(top, **unused)).requires_grad_(True)


def _frozen_copy(module: M) -> M:
    return copy.deepcopy(module).requires_grad_(False)


def _with_model(policy: Policy, model: nn.Module) -> Policy:
    return dataclasses.replace(policy, model=cast(PreTrainedModel, model))
