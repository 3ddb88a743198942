"""The last layer of a trunk, computed for the tokens that somebody reads.

Most last hidden states are read by nobody: those of a prompt serve later tokens in attention alone.
`reading_at` names the ones that are read, and the parts of the last layer that treat each token by
itself (its queries, what follows its attention) then see these only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plumbrule.lm.unpadded.shapes import num_added

LAST_PARTS = ("mlp", "self_attn.q_proj", "self_attn.o_proj")
"""Modules of a last layer, by their whole names in it, that treat each token by itself. Of tokens
that nobody reads, nobody needs what these give."""
_WANTED = "plumbrule_wanted"
"""Attribute of these while `reading_at` names tokens; None otherwise."""


def follow_wanted(trunk: nn.Module) -> None:
    """Let the last layer of a trunk compute what `reading_at` names."""
    for part in _last_parts(trunk):
        setattr(part, _WANTED, None)
        if _take_wanted not in part._forward_pre_hooks.values():
            part.register_forward_pre_hook(_take_wanted)
            part.register_forward_hook(_put_back)


def ignore_wanted(trunk: nn.Module) -> None:
    """Let it compute all tokens, whatever `reading_at` names."""
    for part in _last_parts(trunk):
        if hasattr(part, _WANTED):
            delattr(part, _WANTED)


@contextmanager
def reading_at(trunk: nn.Module, wanted: Tensor | None) -> Iterator[None]:
    """Let the last layer compute, behind its keys and values, the tokens where `wanted` is True.

    A few others are computed too, so that their number is a round one (`shapes.py`). All other
    hidden states are then not the model's. Without effect on a trunk that does not
    `follow_wanted`, or whose layers compute their activations again in the backward pass.

    Args: wanted: (n,) bool, of the first n tokens of a pass, row by row; None: all are.
    """
    parts = []
    if wanted is not None:
        parts = [part for part in _last_parts(trunk) if hasattr(part, _WANTED)]
    if not parts or any(getattr(m, "gradient_checkpointing", False) for m in trunk.modules()):
        yield
        return
    assert wanted is not None
    places = _computed(wanted)
    for part in parts:
        setattr(part, _WANTED, places)
    try:
        yield
    finally:
        for part in parts:
            setattr(part, _WANTED, None)


def _computed(wanted: Tensor) -> Tensor:
    """Return the places of the wanted tokens, and behind them those that round their number up.

    The latter are the first that are not wanted, fewer if there are not as many. Nobody reads what
    is computed for them, so no gradient comes from them.
    """
    places = wanted.nonzero()[:, 0]
    others = (~wanted).nonzero()[: num_added(len(places)), 0]
    return torch.cat([places, others])


def _last_parts(trunk: nn.Module) -> list[nn.Module]:
    layers = dict(trunk.named_children()).get("layers")
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return []
    parts = dict(layers[-1].named_modules())
    return [parts[name] for name in LAST_PARTS if name in parts]


def _take_wanted(part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
    places = getattr(part, _WANTED, None)
    if places is None:
        return None
    states, *others = given
    setattr(part, _WANTED, (places, states.shape[:2]))
    return (states.flatten(0, 1).index_select(0, places)[None], *others)


def _put_back(part: nn.Module, given: tuple[Any, ...], found: Tensor) -> Tensor | None:
    held = getattr(part, _WANTED, None)
    if held is None:
        return None
    places, shape = held
    setattr(part, _WANTED, places)
    whole = found.new_zeros(shape.numel(), found.shape[-1]).index_copy(0, places, found[0])
    return whole.view(*shape, -1)
