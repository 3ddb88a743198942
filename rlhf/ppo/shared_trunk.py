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

A part of a model comes from `clone_sharing_weights`: the same module with some children replaced,
which shares all others.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plumbrule.errors import ConfigError
from plumbrule.lm import varlen
from plumbrule.lm.adapters import as_inherited, prepare_training
from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import causal_lm, hidden_states, pad_rows, trunk
from plumbrule.store.adapter_files import merge_command

M = TypeVar("M", bound=nn.Module)
LAYERS = "layers"
NORMS = ("norm", "final_layer_norm", "final_layernorm")
"""What families call the normalisation after the last layer."""
PROBE_TOKENS = 8
"""Of the row on which a split model is compared with the whole one."""


class Reference(NamedTuple):
    """The policy as it was before training."""

    policy: Policy
    """Answers prompts, inside `context`."""
    reader: Policy
    """Reads rollouts, inside `context`: the whole policy, or its layers above the frozen ones."""
    context: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class FrozenLayers:
    """The frozen lower layers; `trunk` ends in the hidden states between layers."""

    trunk: nn.Module
    pad_id: int

    @torch.no_grad()
    def read(self, rows: Sequence[Sequence[int]], micro_batch_size: int) -> list[Tensor]:
        """Return what the layers make of each row's tokens, (tokens, h)."""
        device = next(self.trunk.parameters()).device
        states = []
        for first in range(0, len(rows), micro_batch_size):
            some = rows[first : first + micro_batch_size]
            tokens, real_mask = (x.to(device) for x in pad_rows(some, self.pad_id))
            hidden = hidden_states(self.trunk, tokens, real_mask)
            states += [hidden[i, : len(row)].clone() for i, row in enumerate(some)]
        return states


class Actors(NamedTuple):
    """Who takes part in PPO beside the reward."""

    policy: Policy
    reader: Policy
    """The policy as it reads rollouts: whole, or its layers above the frozen ones."""
    reference: Reference
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
        off = Reference(policy, policy, lambda: _adapter_off(policy))
        return Actors(policy, policy, off)
    reference = as_inherited(load(), adapter)
    return Actors(policy, policy, Reference(reference, reference))


def _adapter_off(policy: Policy) -> AbstractContextManager[None]:
    return cast(AbstractContextManager[None], policy.model.disable_adapter())  # type: ignore[operator]


def _on_frozen_layers(policy: Policy, top: int) -> Actors:
    """Return actors of which only `top` layers, the last normalisation and an untied head learn."""
    lm = policy.model
    whole = trunk(lm)
    norm_name, layers, norm = _parts(lm, whole, top, policy.source)
    lower, upper = layers[: len(layers) - top], layers[len(layers) - top :]
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
    reference = Reference(
        _with_model(policy, clone_sharing_weights(lm, **{prefix: before}, **own_head)),
        _with_model(policy, clone_sharing_weights(lm, **{prefix: before_top}, **own_head)),
    )
    reader = _with_model(
        policy,
        clone_sharing_weights(lm, **{prefix: clone_sharing_weights(whole, **{LAYERS: upper})}),
    )
    _check_split(whole, frozen_layers, trunk(reader.model), policy.pad_id)
    return Actors(policy, reader, reference, frozen_layers)


def _parts(
    lm: PreTrainedModel, whole: nn.Module, top: int, source: str | None
) -> tuple[str, nn.ModuleList, nn.Module]:
    """Return the name of a trunk's last normalisation, its layers, and that normalisation."""
    children = dict(whole.named_children())
    layers, norms = children.get(LAYERS), [n for n in NORMS if n in children]
    if causal_lm(lm) is not lm:
        raise ConfigError(
            f"ppo.unfrozen_layers (={top}) must be left out for a policy that is an adapter; set "
            "ppo.adapter.inherited=merge, or merge it first: "
            f"{merge_command(source or 'POLICY')}."
        )
    if not isinstance(layers, nn.ModuleList) or not norms:
        raise ConfigError(
            f"ppo.unfrozen_layers (={top}) must be left out for {type(lm).__name__}, which has no "
            f"`{LAYERS}` with a normalisation behind them."
        )
    if not varlen.is_set(lm):
        raise ConfigError(
            f"ppo.unfrozen_layers (={top}) must be left out for {type(lm).__name__}: not all of "
            "its layers attend to all earlier tokens."
        )
    number = len(layers)
    if top >= number:
        raise ConfigError(
            f"ppo.unfrozen_layers (={top}) must be fewer than the model's {number} layers; lower "
            "it, or leave it out to train all."
        )
    return norms[0], layers, children[norms[0]]


def _check_split(
    whole: nn.Module, frozen_layers: FrozenLayers, top: nn.Module, pad_id: int
) -> None:
    """Raise ConfigError unless frozen layers and top together compute what the whole trunk does."""
    device = next(whole.parameters()).device
    tokens = torch.arange(PROBE_TOKENS, device=device)[None]
    real_mask = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        expected = hidden_states(whole, tokens, real_mask)
        [states] = frozen_layers.read(tokens.tolist(), 1)
        found = hidden_states(top, tokens, real_mask, states)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        raise ConfigError(
            f"ppo.unfrozen_layers must be left out for {type(whole).__name__}: its lower and upper "
            "layers, run apart, do not compute what it does."
        )


def branch_of(actors: Actors) -> nn.Module:
    """Return a trainable copy of the policy's layers above the frozen ones."""
    top = trunk(actors.reader.model)
    embeddings = cast(PreTrainedModel, top).get_input_embeddings()
    unused = {name: None for name, module in top.named_children() if module is embeddings}
    return copy.deepcopy(clone_sharing_weights(top, **unused)).requires_grad_(True)


def clone_sharing_weights(module: M, **replaced: nn.Module | None) -> M:
    """Return a module like `module` with some children replaced; it shares all others."""
    other = copy.copy(module)
    other._modules = {**module._modules, **replaced}
    return other


def _frozen_copy(module: M) -> M:
    return copy.deepcopy(module).requires_grad_(False)


def _with_model(policy: Policy, model: nn.Module) -> Policy:
    return dataclasses.replace(policy, model=cast(PreTrainedModel, model))
