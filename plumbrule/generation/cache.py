"""A key-value cache with its room set aside, and the prompts read into it.

transformers' `DynamicCache` grows by concatenation: each new token copies all keys and values of
the batch, which on a small model costs more than the model itself. The longest response is known
here, so a layer allocates that room once and a new token is written into it; what the model reads
is a view. Layers of any other kind (sliding windows, recurrent states) stay as transformers made
them: slower, and as right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from plumbrule.scoring import causal_lm, pad_rows, positions, trunk
from plumbrule.unpadded import NAME, kept_dtype


class RoomyLayer(DynamicLayer):
    """Keys and values (b, heads, length, size) of one layer, views of buffers `room` long.

    unpadded: the model's attention is that of `unpadded.py`, which says in what they are kept.
    """

    def __init__(self, room: int, unpadded: bool):
        super().__init__()
        self.room, self.unpadded = room, unpadded

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

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices` (repeats allowed), in that order."""
        length = self.get_seq_length()
        self._keys, self._values = (
            self._select(buffer, indices, length) for buffer in (self._keys, self._values)
        )
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]

    def _allocate(self, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        return states.new_empty(rows, heads, self.room, size)

    @staticmethod
    def _select(buffer: Tensor, indices: Tensor, length: int) -> Tensor:
        """Return a buffer of the same room that holds the rows `indices`."""
        chosen = buffer.new_empty(len(indices), *buffer.shape[1:])
        chosen[:, :, :length] = buffer[indices, :, :length]
        return chosen


def new_cache(config: PretrainedConfig, room: int) -> DynamicCache:
    """Return an empty cache for a model of `config` that will hold at most `room` tokens a row."""
    cache = DynamicCache(config=config)
    unpadded = bool(config._attn_implementation == NAME)
    cache.layers = [
        RoomyLayer(room, unpadded) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache


def prefill(
    model: nn.Module, prompts: list[Sequence[int]], pad_id: int, limit: int
) -> tuple[Tensor, DynamicCache, Tensor]:
    """Return hidden states (b, h) at the prompts' ends, the cache, and the mask with room.

    The mask is (b, l + limit) bool: left padding False, prompt and all response columns True.
    """
    device = next(model.parameters()).device
    order: dict[tuple[int, ...], int] = {}
    copies = [order.setdefault(tuple(prompt), len(order)) for prompt in prompts]
    tokens, prompt_mask = (x.to(device) for x in pad_rows(list(order), pad_id, side="left"))
    cache = new_cache(causal_lm(model).config, tokens.shape[1] + limit)
    hidden = trunk(model)(
        input_ids=tokens,
        attention_mask=prompt_mask,
        position_ids=positions(prompt_mask),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    real_mask = torch.cat([prompt_mask, prompt_mask.new_ones(len(order), limit)], 1)
    if len(order) < len(prompts):
        index = torch.tensor(copies, device=device)
        cache.batch_select_indices(index)
        hidden, real_mask = hidden[index], real_mask[index]
    return hidden, cache, real_mask
