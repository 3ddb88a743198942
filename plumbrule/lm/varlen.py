"""Forward passes over real tokens only: padding costs nothing but in attention.

Rows of a batch differ in length, and a padded batch runs every layer over its padding too; of a PPO
rollout that is half of all work. Here the real tokens of all rows go through the model as one long
row, and only attention, the one operation in which tokens of a row meet, takes them apart again: in
groups of rows of like length, so that there are few calls; on a CPU long rows one by one, where a
call costs less than padding. It is causal and what padding is left stands behind, so no real token
sees any and no mask is needed.

Rows that begin alike (the answers to one prompt) can share what they have in common: `shared` says
how many tokens of a row are those of the first of its run, and these are computed once. The rows
of a run then form one row whose attention mask lets each continuation see the common beginning and
itself.

This is an attention function like transformers' own, registered under `NAME`; without a layout it
is `sdpa`, so one model serves training and sampling. What it computes for a real token is what the
padded pass computes, up to rounding.

Most last hidden states are read by nobody: those of a prompt serve later tokens in attention alone.
`wanted` names the ones that are read, and the parts of the last layer that treat each token by
itself (its queries, what follows its attention) then see these only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
ROUNDED_BITS = 4
"""Leading bits that the number of tokens of a pass has beside its first; the others are 0."""


LAST_PARTS = ("mlp", "self_attn.q_proj", "self_attn.o_proj")
"""Modules of a last layer, by their whole names in it, that treat each token by itself. Of tokens
that nobody reads, nobody needs what these give."""
_WANTED = "plumbrule_wanted"
"""Attribute of these while `reading_at` names tokens; None otherwise."""


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


def is_set(model: PreTrainedModel) -> bool:
    """Return whether `model` runs unpadded."""
    return bool(model.config._attn_implementation == NAME)


def hidden_states(
    trunk: nn.Module,
    tokens: Tensor,
    real_mask: Tensor,
    frozen_states: Tensor | None = None,
    shared: Tensor | None = None,
    wanted: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states (b, l, h) of a trunk; 0 at slots that are not real.

    Args: tokens: (b, l) int64. real_mask: (b, l) bool, one unbroken run per row; empty rows are 0.
        frozen_states: (n, h), read in place of embeddings, one for each of the n real tokens, row
        by row.
        shared: (b,) int64, how many of its first real tokens a row has in common with the last row
        before it that shares none; those are computed once. None: no row shares any.
        wanted: (b, l) bool, True = it is read; others hold anything. None: all real ones are.
    """
    if shared is not None and frozen_states is None and bool(shared.any()):
        return _hidden_of_runs(trunk, tokens, real_mask, shared, wanted)
    lengths = real_mask.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    row, column = real_mask[order].nonzero(as_tuple=True)
    row = order[row]
    position = column - real_mask.to(torch.uint8).argmax(1)[row]
    layout = make_layout([n for n in lengths[order].tolist() if n], tokens.device)
    with reading_at(trunk, None if wanted is None else wanted[row, column]):
        if frozen_states is None:
            hidden = run(trunk, layout, position, input_ids=tokens[row, column])
        else:
            number = real_mask.flatten().long().cumsum(0).view(real_mask.shape) - 1
            hidden = run(trunk, layout, position, inputs_embeds=frozen_states[number[row, column]])
    padded = hidden.new_zeros(*tokens.shape, hidden.shape[-1])
    return padded.index_put((row, column), hidden)


def _hidden_of_runs(
    trunk: nn.Module,
    tokens: Tensor,
    real_mask: Tensor,
    shared: Tensor,
    wanted: Tensor | None,
) -> Tensor:
    """Return what `hidden_states` does, computing what the rows of a run share once.

    1 the runs, the one with most tokens first; 2 the tokens that are computed; 3 one mask per run;
    4 where each row finds its states; 5 the states.
    """
    device = tokens.device
    position = real_mask.long().cumsum(1) - 1
    own = real_mask & (position >= shared[:, None])
    # 1
    run_of = (shared == 0).long().cumsum(0) - 1
    sizes = torch.zeros_like(run_of).index_add(0, run_of, own.sum(1))[: int(run_of[-1]) + 1]
    rank = sizes.argsort(descending=True, stable=True).argsort()
    order = rank[run_of].argsort(stable=True)
    # 2
    row, column = own[order].nonzero(as_tuple=True)
    row = order[row]
    # 3
    lengths = [n for n in sizes.sort(descending=True).values.tolist() if n]
    masks = [
        _run_mask(r, position[r, c], shared)
        for r, c in zip(row.split(lengths), column.split(lengths), strict=True)
    ]
    layout = make_layout(lengths, device, masks)
    # 4
    place = torch.full_like(tokens, len(row)).index_put(
        (row, column), torch.arange(len(row), device=device)
    )
    begins = real_mask.to(torch.uint8).argmax(1)
    first = (shared == 0).nonzero()[:, 0][run_of]
    others = real_mask & ~own
    r, c = others.nonzero(as_tuple=True)
    place[others] = place[first[r], begins[first[r]] + position[r, c]]
    # 5
    read = None
    if wanted is not None:
        read = torch.zeros_like(row, dtype=torch.bool).index_fill(0, place[wanted], True)
    with reading_at(trunk, read):
        hidden = run(trunk, layout, position[row, column], input_ids=tokens[row, column])
    return torch.cat([hidden, hidden.new_zeros(1, hidden.shape[-1])])[place]


def _run_mask(row: Tensor, position: Tensor, shared: Tensor) -> Tensor | None:
    """Return which of a run's n tokens see which, (n, n) bool; None for a run of one row.

    A token sees the earlier ones of its own row, and of the run's first row those that are shared.

    Args: row, position: (n,) int64, of each token, the first row's tokens first.
    """
    if bool((row == row[0]).all()):
        return None
    earlier = torch.ones(len(row), len(row), dtype=torch.bool, device=row.device).tril()
    common = (row == row[0]) & (position < shared[row][:, None])
    return ((row == row[:, None]) & earlier) | common


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

    Its other hidden states are then not the model's. Without effect on a trunk that does not
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
    places = wanted.nonzero()[:, 0]
    for part in parts:
        setattr(part, _WANTED, places)
    try:
        yield
    finally:
        for part in parts:
            setattr(part, _WANTED, None)


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
