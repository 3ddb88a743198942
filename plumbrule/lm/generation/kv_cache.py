"""A preallocated KV cache, and the prefill of prompts into it.

transformers' `DynamicCache` grows by concatenation: each new token copies all keys and values of
the batch, which on a small model costs more than the model itself. The longest response is known
here, so a layer allocates its capacity once and a new token is written into it; what the model
reads is a view. Layers of any other kind (sliding windows, recurrent states) stay as transformers
made them: slower, and as right.

Whether a model is right with such a cache is asked of it once, at load
(`plumbrule/lm/model_probe.py`). One that is not is marked (`set_recomputed`), and each of its
tokens reads the whole row again (`WholeRows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
)

from plumbrule.lm.logprobs import causal_lm, hidden_states, pad_rows, positions, trunk
from plumbrule.lm.unpadded.attention import NAME, kept_dtype
from plumbrule.lm.unpadded.wanted_tokens import reading_at

_RECOMPUTED = "plumbrule_recomputed"
"""Attribute of a causal language model that is sampled without a cache."""
_READ_ANEW = "plumbrule_read_anew"
"""Attribute of one whose rows are read from their beginning in each turn."""
_NAMES = ("cache", "past_key_values", "cache_params")
"""What models call their cache: transformers 5.24 renamed the two others to the first; until then
the last is that of models without any attention (Mamba and its like)."""


class PreallocatedLayer(DynamicLayer):
    """Keys and values (b, heads, length, size) of one layer, views of buffers of `capacity` tokens.

    unpadded: the model's attention is that of `plumbrule/lm/unpadded`, which says in what they are
    kept.
    """

    is_initialized: bool

    def __init__(self, capacity: int, unpadded: bool):
        super().__init__()
        self.capacity, self.unpadded = capacity, unpadded

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens behind the old ones and return all keys and values."""
        if self.unpadded:
            dtype = kept_dtype(value_states)  # rotation in float32 may have widened the keys
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        begin = self.get_seq_length()
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self._keys, self._values = self._allocate(key_states), self._allocate(value_states)
            self.is_initialized = True
        end = begin + key_states.shape[-2]
        self._keys[:, :, begin:end] = key_states
        self._values[:, :, begin:end] = value_states
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def begin(self, keys: Tensor, values: Tensor, length: int) -> None:
        """Take buffers (b, heads, capacity, size) whose first `length` columns are written."""
        self._keys, self._values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices` (repeats allowed), in that order.

        A row that stays where it is, is not copied.
        """
        length, number = self.get_seq_length(), len(indices)
        moved = None
        if number <= len(self._keys):
            moved = (indices != torch.arange(number, device=indices.device)).nonzero()[:, 0]
        self._keys, self._values = (
            self._select(buffer, indices, moved, length) for buffer in (self._keys, self._values)
        )
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]

    def _allocate(self, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        return states.new_empty(rows, heads, self.capacity, size)

    @staticmethod
    def _select(buffer: Tensor, indices: Tensor, moved: Tensor | None, length: int) -> Tensor:
        """Return a buffer of the same capacity that holds the rows `indices`.

        Args: moved: places of those that were elsewhere; None: all are copied.
        """
        if moved is not None and 2 * len(moved) <= len(indices):
            written = buffer[:, :, :length]
            written.index_copy_(0, moved, written.index_select(0, indices[moved]))
            return buffer[: len(indices)]
        chosen = buffer.new_empty(len(indices), *buffer.shape[1:])
        torch.index_select(buffer[:, :, :length], 0, indices, out=chosen[:, :, :length])
        return chosen


def new_cache(config: PretrainedConfig, capacity: int) -> DynamicCache:
    """Return an empty cache for a model of `config`, for at most `capacity` tokens a row."""
    cache = DynamicCache(config=config)
    unpadded = bool(config._attn_implementation == NAME)
    cache.layers = [
        PreallocatedLayer(capacity, unpadded) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache


def prefill(
    model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int, limit: int
) -> tuple[Tensor, DynamicCache, Tensor]:
    """Return hidden states (b, h) at the prompts' ends, the cache, and the attention mask.

    The mask is (b, l + limit) bool: left padding False, prompt and all response columns True.
    """
    device = next(model.parameters()).device
    order: dict[tuple[int, ...], int] = {}
    copies = [order.setdefault(tuple(prompt), len(order)) for prompt in prompts]
    tokens, prompt_mask = (x.to(device) for x in pad_rows(list(order), pad_id, side="left"))
    cache = new_cache(causal_lm(model).config, tokens.shape[1] + limit)
    hidden = read(model, cache, tokens, prompt_mask, positions(prompt_mask))
    real_mask = torch.cat([prompt_mask, prompt_mask.new_ones(len(order), limit)], 1)
    if len(order) < len(prompts):
        index = torch.tensor(copies, device=device)
        select_rows(cache, index)
        hidden, real_mask = hidden[index], real_mask[index]
    return hidden, cache, real_mask


def read(
    model: nn.Module, cache: DynamicCache, tokens: Tensor, real_mask: Tensor, position: Tensor
) -> Tensor:
    """Return hidden states (b, h) at the last column, the tokens (b, l) put into the cache."""
    whole = trunk(model)
    given: dict[str, Any]
    if any(isinstance(layer, CacheLayerMixin) for layer in cache.layers):
        given = {"attention_mask": real_mask, "position_ids": position}
    else:  # A state has no columns: what is padded matters where it is read, and never again.
        begun = cast(LinearAttentionCacheLayerMixin, cache.layers[0]).has_previous_state[0]
        given = {"attention_mask": None if begun else real_mask}
    given[cache_argument(whole)] = cache
    wanted = None
    if tokens.shape[1] > 1:
        wanted = torch.zeros_like(tokens, dtype=torch.bool)
        wanted[:, -1] = True
        wanted = wanted.flatten()
    with reading_at(whole, wanted):
        return whole(input_ids=tokens, use_cache=True, **given).last_hidden_state[:, -1]


def cache_argument(whole: nn.Module) -> str:
    """Return the name by which the trunk of a model takes its cache."""
    taken = signature(whole.forward).parameters
    return next((name for name in _NAMES if name in taken), "past_key_values")


def select_rows(cache: DynamicCache, indices: Tensor) -> None:
    """Keep the rows `indices` (repeats allowed) of a cache, in that order."""
    for layer in cache.layers:
        # A recurrent state inherits a selection that knows keys and values only, if any.
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(cast(torch.LongTensor, indices))
        else:
            cast(DynamicLayer, layer).batch_select_indices(indices)


def set_recomputed(model: nn.Module, recomputed: bool) -> None:
    """Mark a model whose tokens are sampled by reading the whole row again, or unmark it."""
    setattr(causal_lm(model), _RECOMPUTED, recomputed)


def is_recomputed(model: nn.Module) -> bool:
    """Return whether tokens of a model are sampled by reading the whole row again."""
    return bool(getattr(causal_lm(model), _RECOMPUTED, False))


def set_read_anew(model: nn.Module, read_anew: bool) -> None:
    """Mark a model whose rows are read from their beginning in each turn, or unmark it."""
    setattr(causal_lm(model), _READ_ANEW, read_anew)


def is_read_anew(model: nn.Module) -> bool:
    """Return whether rows of a model are read from their beginning in each turn."""
    return bool(getattr(causal_lm(model), _READ_ANEW, False))


class GrowingRows(Protocol):
    """A batch of rows that grow by a token at a time."""

    @property
    def cache(self) -> DynamicCache | None:
        """What was read of them; None: they are read whole for each token."""

    hidden: Tensor
    """(b, h), at the rows' ends."""

    def step(self, picked: Tensor) -> None:
        """Put the tokens (b,) int64 behind the rows and read them."""

    def keep(self, indices: Tensor) -> None:
        """Keep the rows `indices` (n,) int64, in that order."""

    def columns_of(self, place: int) -> tuple[int, int]:
        """Return where the row at `place` begins in the cache, and where what was read ends."""


class CachedRows:
    """Rows that have been read, each next token against the cache.

    Args: hidden, cache, real_mask: as `prefill` returns them.
    """

    def __init__(
        self, model: nn.Module, hidden: Tensor, cache: DynamicCache, real_mask: Tensor, limit: int
    ):
        self.model = model
        self.hidden, self.cache, self._real_mask = hidden, cache, real_mask
        self._num_columns = self._real_mask.shape[1] - limit
        self._position = self._real_mask.sum(-1, keepdim=True) - limit

    def step(self, picked: Tensor) -> None:
        """Put the tokens (b,) int64 behind the rows and read them."""
        self._num_columns += 1
        seen = self._real_mask[:, : self._num_columns]
        self.hidden = read(self.model, self.cache, picked[:, None], seen, self._position)
        self._position = self._position + 1

    def keep(self, indices: Tensor) -> None:
        """Keep the rows `indices` (n,) int64, in that order."""
        self._real_mask, self._position = self._real_mask[indices], self._position[indices]
        self.hidden = self.hidden[indices]
        select_rows(self.cache, indices)

    def columns_of(self, place: int) -> tuple[int, int]:
        """Return where the row at `place` begins in the cache, and where what was read ends."""
        return int(self._real_mask[place].to(torch.uint8).argmax()), self._num_columns


class WholeRows:
    """Rows that are read whole for each token, as scoring reads them: right without a cache."""

    cache = None

    def __init__(self, model: nn.Module, prompts: list[Sequence[int]], pad_id: int):
        self.model, self._pad_id = model, pad_id
        self._rows = [list(prompt) for prompt in prompts]
        self.hidden = self._read()

    def step(self, picked: Tensor) -> None:
        """Put the tokens (b,) int64 behind the rows and read them."""
        for row, token in zip(self._rows, picked.tolist(), strict=True):
            row.append(token)
        self.hidden = self._read()

    def keep(self, indices: Tensor) -> None:
        """Keep the rows `indices` (n,) int64, in that order."""
        self._rows = [list(self._rows[i]) for i in indices.tolist()]
        self.hidden = self.hidden[indices]

    def columns_of(self, place: int) -> tuple[int, int]:
        """Return (0, 0): nothing is kept of what was read."""
        return 0, 0

    def _read(self) -> Tensor:
        device = next(self.model.parameters()).device
        tokens, real_mask = (x.to(device) for x in pad_rows(self._rows, self._pad_id))
        hidden = hidden_states(self.model, tokens, real_mask)
        return hidden[torch.arange(len(hidden), device=device), real_mask.sum(1) - 1]


def read_rows(
    model: nn.Module, prompts: list[Sequence[int]], pad_id: int, limit: int
) -> GrowingRows:
    """Return prompts that have been read and will grow by at most `limit` tokens each.

    Equal prompts are read once.
    """
    if is_recomputed(model):
        return WholeRows(model, prompts, pad_id)
    return cached_rows(model, prompts, pad_id, limit)


def cached_rows(
    model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int, limit: int
) -> CachedRows:
    """Return `read_rows` of a model that is sampled with a cache."""
    return CachedRows(model, *prefill(model, prompts, pad_id, limit), limit)
