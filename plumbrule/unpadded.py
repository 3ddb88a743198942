"""Forward passes over real tokens only: padding costs nothing but in attention.

Rows of a batch differ in length, and a padded batch runs every layer over its padding too; of a PPO
rollout that is half of all work. Here the real tokens of all rows go through the model as one long
row, and only attention, the one operation in which tokens of a row meet, takes them apart again: on
a CPU row by row, where a call costs less than padding; elsewhere in groups of rows of like length,
so that there are few calls. It is causal and what padding is left stands behind, so no real token
sees any and no mask is needed.

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
ROUNDED_BITS = 4
"""Leading bits that the number of tokens of a pass has beside its first; the others are 0."""


class Group(NamedTuple):
    """Rows of like length, which meet padding only up to the longest of themselves."""

    first: int
    """Of its tokens, among all; they stand one behind the other."""
    slots: Tensor
    """(n,) int64: where each of its n tokens stands in the padded group, row * width + position."""
    num_rows: int
    width: int


class Layout(NamedTuple):
    """Which tokens meet in attention; the rows stand one behind the other, longest first."""

    lengths: Sequence[int]
    """Of the rows, tokens."""
    groups: Sequence[Group]
    """Of rows that attend in one call; none where each attends in a call of its own."""


def make_layout(lengths: Sequence[int], device: torch.device) -> Layout:
    """Return the layout of rows that stand one behind the other, longest first."""
    return Layout(lengths, () if _by_row(device) else make_groups(lengths, device))


def _by_row(device: torch.device) -> bool:
    return device.type == "cpu"


def make_groups(lengths: Sequence[int], device: torch.device) -> list[Group]:
    """Return groups of rows; one shorter than `SHORTER` of the first of a group begins the next."""
    groups = []
    token = row = 0
    while row < len(lengths):
        width = lengths[row]
        mine = [length for length in lengths[row:] if length >= SHORTER * width]
        sizes = torch.tensor(mine, device=device)
        inside = torch.arange(width, device=device) < sizes[:, None]
        groups.append(Group(token, inside.flatten().nonzero()[:, 0], len(mine), width))
        token, row = token + sum(mine), row + len(mine)
    return groups


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
    if not layout.groups:
        sizes = [*layout.lengths, behind] if behind else list(layout.lengths)
        rows = zip(*(some.split(sizes, 2) for some in (query, key, value)), strict=True)
        return torch.cat([_causal(module, row, settings) for row in rows], 1)
    found = []
    for group in layout.groups:
        states = tuple(_spread(some, group) for some in (query, key, value))
        found.append(_causal(module, states, settings).flatten(0, 1)[group.slots])
    found.append(found[0].new_zeros(behind, *found[0].shape[1:]))
    return torch.cat(found)[None]


def _causal(module: nn.Module, states: tuple[Tensor, ...], settings: dict[str, Any]) -> Tensor:
    """Return attention (rows, width, heads, size) of queries, keys, values with widths third."""
    query, key, value = states
    return sdpa_attention_forward(module, query, key, value, None, **settings)[0]


def _spread(states: Tensor, group: Group) -> Tensor:
    """Return a group's part of (1, heads, n, size) as (rows, heads, width, size), padded with 0."""
    mine = states[0, :, group.first : group.first + len(group.slots)].transpose(0, 1)
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


def is_set(model: PreTrainedModel) -> bool:
    """Return whether `model` runs unpadded."""
    return bool(model.config._attn_implementation == NAME)


def hidden_states(
    trunk: nn.Module, tokens: Tensor, real_mask: Tensor, stem: Tensor | None = None
) -> Tensor:
    """Return the last hidden states (b, l, h) of a trunk; 0 at slots that are not real.

    Args: tokens: (b, l) int64. real_mask: (b, l) bool, one unbroken run per row; empty rows are 0.
        stem: (n, h), read in place of embeddings: one for each of the n real tokens, row by row.
    """
    lengths = real_mask.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    row, column = real_mask[order].nonzero(as_tuple=True)
    row = order[row]
    position = column - real_mask.to(torch.uint8).argmax(1)[row]
    layout = make_layout([n for n in lengths[order].tolist() if n], tokens.device)
    if stem is None:
        hidden = run(trunk, layout, position, input_ids=tokens[row, column])
    else:
        number = real_mask.flatten().long().cumsum(0).view(real_mask.shape) - 1
        hidden = run(trunk, layout, position, inputs_embeds=stem[number[row, column]])
    padded = hidden.new_zeros(*tokens.shape, hidden.shape[-1])
    return padded.index_put((row, column), hidden)


def run(trunk: nn.Module, layout: Layout, position: Tensor, **inputs: Tensor) -> Tensor:
    """Return the last hidden states (n, h) of n tokens, each seeing the earlier ones of its row.

    A few tokens of no row are put behind them, so that there are not as many shapes as batches:
    libraries compile and keep code for each.

    Args: position: (n,) int64, from 0 in each row. inputs: input_ids (n,) or inputs_embeds (n, h).
    """
    number = len(position)
    extra = -number % max(1, 2 ** (number.bit_length() - 1 - ROUNDED_BITS))
    # A mask of four dimensions is handed through as it is; with a layout nobody reads it.
    unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=position.device)
    return trunk(
        attention_mask=unread,
        position_ids=_lengthen(position, extra),
        use_cache=False,
        layout=layout,
        **{name: _lengthen(given, extra) for name, given in inputs.items()},
    ).last_hidden_state[0, :number]


def _lengthen(rows: Tensor, extra: int) -> Tensor:
    """Return (n, ...) as (1, n + extra, ...), with zeros behind."""
    return torch.cat([rows, rows.new_zeros(extra, *rows.shape[1:])])[None]
