"""Attention among rows of different lengths that stand one behind the other, without padding.

Attention is the one operation in which tokens of a row meet. It takes the long row of a pass
(`passes.py`) apart again: in groups of rows of like length, so that there are few calls; on a CPU
long rows one by one, where a call costs less than padding. It is causal and what padding is left
stands behind, so no real token sees any and no mask is needed.

This is an attention function like transformers' own, registered under `NAME`; without a layout it
is `sdpa`, so one model serves training and sampling. What it computes for a real token is what the
padded pass computes, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "plumbrule_unpadded"
"""Of the attention implementation."""
PLAIN = "sdpa"
"""The implementation that it takes the place of."""
SHORTER = 0.6
"""Of the longest row of a group, the share that its rows have at least."""
ALONE_TOKENS = 64
"""Of a row on a CPU that attends in a call of its own: a shorter one costs less in a group."""


class Group(NamedTuple):
    """Rows of like length, which meet padding only up to the longest of themselves."""

    slots: Tensor
    """(n,) int64: where each of its n tokens stands in the padded group, row * width + position."""
    num_rows: int
    width: int
    mask: Tensor | None = None
    """(rows, 1, width, width) bool, True = the query may see the key; None: all earlier tokens."""


class Layout(NamedTuple):
    """Which tokens meet in attention; the rows stand one behind the other, longest first."""

    lengths: Sequence[int]
    """Of the rows, tokens."""
    alone: Sequence[Tensor | None]
    """Of each of the first rows, which attend in a call of their own, what `Group.mask` is."""
    groups: Sequence[Group]
    """Of the others, which attend together."""


def make_layout(
    lengths: Sequence[int], device: torch.device, masks: Sequence[Tensor | None] = ()
) -> Layout:
    """Return the layout of rows that stand one behind the other, longest first.

    Args: masks: of each row, (n, n) bool; None where a token sees all earlier ones of its row.
    """
    masks = [*masks, *[None] * (len(lengths) - len(masks))]
    number = sum(length > ALONE_TOKENS for length in lengths) if _by_row(device) else 0
    return Layout(lengths, masks[:number], make_groups(lengths[number:], device, masks[number:]))


def _by_row(device: torch.device) -> bool:
    return device.type == "cpu"


def make_groups(
    lengths: Sequence[int], device: torch.device, masks: Sequence[Tensor | None] = ()
) -> list[Group]:
    """Return groups of rows; one shorter than `SHORTER` of the first of a group begins the next."""
    groups = []
    row = 0
    while row < len(lengths):
        width = lengths[row]
        mine = [length for length in lengths[row:] if length >= SHORTER * width]
        sizes = torch.tensor(mine, device=device)
        inside = torch.arange(width, device=device) < sizes[:, None]
        places = inside.flatten().nonzero()[:, 0]
        mask = _padded_masks(mine, masks[row : row + len(mine)], width, device)
        groups.append(Group(places, len(mine), width, mask))
        row += len(mine)
    return groups


def _padded_masks(
    lengths: Sequence[int], masks: Sequence[Tensor | None], width: int, device: torch.device
) -> Tensor | None:
    """Return the masks of a group's rows as (rows, 1, width, width), None if no row has one."""
    if all(mask is None for mask in masks):
        return None
    # Padding stands behind and sees what comes before it: a query that sees nothing would be NaN.
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    padded = causal.repeat(len(lengths), 1, 1, 1)
    for place, (length, mask) in enumerate(zip(lengths, masks, strict=True)):
        if mask is not None:
            padded[place, 0, :length, :length] = mask
    return padded


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Return attention (1, n, heads, size) among the tokens of each row, or sdpa's without layout.

    Args: query, key, value: (1, heads, n, size), all tokens one behind the other.
    """
    if not _is_slow(query):
        return _attend(module, query, key, value, attention_mask, layout, settings), None
    with torch.autocast("cpu", enabled=False):
        query, key, value = query.float(), key.float(), value.float()
        found = _attend(module, query, key, value, attention_mask, layout, settings)
    return found.bfloat16(), None


def _is_slow(states: Tensor) -> bool:
    """Return whether float32 is faster: torch's fused kernel in bf16 on a CPU, by far."""
    halved = states.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    return states.device.type == "cpu" and halved


def kept_dtype(values: Tensor) -> torch.dtype:
    """Return in what keys and values are best kept for attention to these values later."""
    return torch.float32 if _is_slow(values) else values.dtype


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None,
    settings: dict[str, Any],
) -> Tensor:
    """Return attention (1, n, heads, size); of tokens behind the last row, anything finite."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)[0]
    settings = {**settings, "is_causal": True}
    behind = query.shape[2] - sum(layout.lengths)
    alone = layout.lengths[: len(layout.alone)]
    sizes = [*alone, *(len(group.slots) for group in layout.groups), behind]
    parts = list(zip(*(some.split(sizes, 2) for some in (query, key, value)), strict=True))
    found = [
        _masked(module, states, mask, settings)[0]
        for states, mask in zip(parts, layout.alone, strict=False)
    ]
    for states, group in zip(parts[len(alone) :], layout.groups, strict=False):
        padded = tuple(_spread(some, group) for some in states)
        together = _masked(module, padded, group.mask, settings).flatten(0, 1)
        found.append(together.index_select(0, group.slots))
    found.append(found[0].new_zeros(behind, *found[0].shape[1:]))
    return torch.cat(found)[None]


def _masked(
    module: nn.Module, states: tuple[Tensor, ...], mask: Tensor | None, settings: dict[str, Any]
) -> Tensor:
    """Return attention (rows, width, heads, size) of queries, keys, values with widths third.

    Args: mask: broadcast to (rows, heads, width, width), True = may be seen; None: causal.
    """
    query, key, value = states
    if mask is not None:
        settings = {**settings, "is_causal": False}
        mask = mask.expand(len(query), 1, *mask.shape[-2:])
    return sdpa_attention_forward(module, query, key, value, mask, **settings)[0]


def _spread(states: Tensor, group: Group) -> Tensor:
    """Return a group's (1, heads, n, size) as (rows, heads, width, size), padded with 0."""
    mine = states[0].transpose(0, 1)
    padded = states.new_zeros(group.num_rows * group.width, *mine.shape[1:])
    padded = padded.index_copy(0, group.slots, mine)
    return padded.view(group.num_rows, group.width, *mine.shape[1:]).transpose(1, 2)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def set_unpadded(model: PreTrainedModel) -> None:
    """Let `model` run unpadded, if each of its layers attends to all earlier tokens.

    Others (sliding windows, capped scores, no attention interface) stay as they are.
    """
    if can_unpad(model):
        model.set_attn_implementation(NAME)


def can_unpad(model: PreTrainedModel) -> bool:
    """Return whether all layers of `model` attend to all earlier tokens through the interface."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and config._attn_implementation == PLAIN
        and set(kinds) == {"full_attention"}
        and not getattr(config, "sliding_window", None)
    )


def is_unpadded(model: PreTrainedModel) -> bool:
    """Return whether `model` runs unpadded."""
    return bool(model.config._attn_implementation == NAME)
