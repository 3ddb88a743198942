"""Rows that were read before and go on: their cache is kept between two calls of the sampler.

A response in turns (`search_turns.py`) is sampled, answered and sampled on. Read anew for each
turn, a conversation of k turns is computed k times. Here a row that ends its turn leaves a copy of
its keys and values behind (`RowCache`), and the next call reads only what stands behind them: the
turn's last token and the answer.

    kept rows              the next batch, aligned at its right end
    p p t t t              . . . p p | t t t a a n      p: prompt, t: turn 1
    p p p p t t t t        p p p p t t t | t a a a      a: answer; n: the rest of it
                             from cache     read

Rows have answers of different lengths. All read as many tokens as the one that has most to read;
where another has fewer, its last kept tokens are read again in place of padding, so the columns of
a row are one unbroken run, as after a first reading, and no padding stands within it. Keys hold
their positions, which do not change.

Layers other than ours (sliding windows, recurrent states) keep nothing; such rows are read anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from plumbrule.lm.generation.kv_cache import CachedRows, PreallocatedLayer, new_cache, read
from plumbrule.lm.logprobs import causal_lm


@dataclass
class RowCache:
    """What was kept of a row; empty at first.

    layers: keys and values (heads, n, size) of the row's first n tokens, of each layer.
    """

    layers: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Return how many of the row's tokens need not be read again."""
        return self.layers[0][0].shape[1] if self.layers else 0

    def keep(self, cache: DynamicCache, place: int, begin: int, end: int) -> None:
        """Copy the columns [begin, end) of a row of a batch; nothing where a layer is not ours."""
        if not can_keep(cache):
            return
        columns = (place, slice(None), slice(begin, end))
        self.layers = tuple(
            (cast(Tensor, layer.keys)[columns].clone(), cast(Tensor, layer.values)[columns].clone())
            for layer in cast(list[DynamicLayer], cache.layers)
        )


def continue_rows(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    caches: Sequence[RowCache],
    pad_id: int,
    limit: int,
) -> CachedRows:
    """Return rows of whose beginnings a cache was kept, read to their ends, as `read_rows` does.

    Args: rows: whole, what was read before included. caches: one for each row, not empty.
    """
    device = next(model.parameters()).device
    planned = plan(rows, caches)
    cache = new_cache(causal_lm(model).config, planned.columns + planned.width + limit)
    fill(cache, caches, planned)
    tokens, position, real_mask = (
        some.to(device) for some in read_tokens(rows, planned, pad_id, limit)
    )
    seen = real_mask[:, : planned.columns + planned.width]
    hidden = read(model, cache, tokens, seen, position)
    return CachedRows(model, hidden, cache, real_mask, limit)


def can_keep(cache: DynamicCache) -> bool:
    """Return whether all layers hold keys and values column by column."""
    layers = cache.layers
    return all(isinstance(layer, PreallocatedLayer) and layer.is_initialized for layer in layers)


@dataclass(frozen=True)
class Continuation:
    """A batch of which the last `width` tokens of each row are to be read.

    columns: of what is taken from the caches, in front of them. taken: tokens of it, of each row.
    """

    width: int
    columns: int
    taken: Sequence[int]


def plan(rows: Sequence[Sequence[int]], caches: Sequence[RowCache]) -> Continuation:
    """Return how rows are read on."""
    width = max(len(row) - kept.num_tokens for row, kept in zip(rows, caches, strict=True))
    taken = [max(0, len(row) - width) for row in rows]
    return Continuation(width, max(taken), taken)


def fill(cache: DynamicCache, caches: Sequence[RowCache], planned: Continuation) -> None:
    """Put what is taken of each row into an empty cache, aligned at column `columns`.

    Columns in front of a row are 0: attention gives them no weight, but 0 times NaN is NaN.
    """
    if planned.columns == 0:
        return
    for index, layer in enumerate(cache.layers):
        assert isinstance(layer, PreallocatedLayer)  # as the one that was kept from
        kept = [row.layers[index] for row in caches]
        keys, values = (
            _aligned([pair[part] for pair in kept], planned, layer.capacity) for part in range(2)
        )
        layer.begin(keys, values, planned.columns)


def _aligned(states: Sequence[Tensor], planned: Continuation, capacity: int) -> Tensor:
    """Return (b, heads, capacity, size), each row's first tokens ending at column `columns`."""
    heads, _, size = states[0].shape
    whole = states[0].new_empty(len(states), heads, capacity, size)
    whole[:, :, : planned.columns] = 0
    for row, (state, number) in enumerate(zip(states, planned.taken, strict=True)):
        whole[row, :, planned.columns - number : planned.columns] = state[:, :number]
    return whole


def read_tokens(
    rows: Sequence[Sequence[int]], planned: Continuation, pad_id: int, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens to read (b, width), their positions, and the mask of all columns.

    Args: limit: columns that the rows will grow by, which are True.
    """
    width, whole = planned.width, planned.columns + planned.width
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    tokens = torch.tensor([[pad_id] * (width - len(row)) + list(row[-width:]) for row in rows])
    position = (lengths - width + torch.arange(width)).clamp(min=0)
    real_mask = torch.arange(whole + limit) >= whole - lengths
    return tokens, position, real_mask
