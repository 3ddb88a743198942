"""A policy's weights in memory that another process maps: written here, read by the engine.

The memory has no name (`memfd_create`), so it is gone when both processes are. Adapters are merged
as their weights are written: the policy's own are left as they are, to the bit.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from plumbrule.errors import ConfigError
from plumbrule.lm.adapters import base_weights
from plumbrule.lm.logprobs import causal_lm

ALIGNED_BYTES = 64
"""Where in the memory a weight may begin: at multiples of this."""
Entry = tuple[str, str, list[int], int]
"""Name, dtype, shape and offset of a weight."""


class SharedWeights:
    """Memory that holds the weights of one policy at a time."""

    def __init__(self) -> None:
        self.file = os.memfd_create("plumbrule-weights")

    def write(self, model: PreTrainedModel, dtype: torch.dtype) -> list[Entry]:
        """Write a model's weights as `dtype` and return where each stands.

        Raises: ConfigError: an adapter that can't be merged; too little memory.
        """
        weights = whole_weights(model)
        entries, end = [], 0
        for name, weight in weights.items():
            entries.append((name, str(dtype).removeprefix("torch."), list(weight.shape), end))
            end += -(-weight.numel() * dtype.itemsize // ALIGNED_BYTES) * ALIGNED_BYTES
        try:
            os.ftruncate(self.file, end)
            memory = mmap.mmap(self.file, end)
        except OSError as error:
            raise ConfigError(
                f"the sampler's copy of the weights (={end / 2**30:.3g} GiB) must fit the memory "
                f"({error}); use ppo.sampler=own."
            ) from None
        for (_, _, _, offset), weight in zip(entries, weights.values(), strict=True):
            count = weight.numel()
            into = torch.frombuffer(memory, dtype=dtype, count=count, offset=offset)
            into.copy_(weight.detach().reshape(-1))
        return entries

    def close(self) -> None:
        """Give the memory back."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


@torch.no_grad()
def whole_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return a model's weights under the names that its checkpoints have, adapters merged.

    Weights without an adapter are the model's own tensors, not copies. One that is tied to another
    is left out, as in a checkpoint.

    Raises: ConfigError: an adapter that is no plain LoRA.
    """
    lm = causal_lm(model)
    weights = base_weights(lm) if lm is not model else dict(lm.state_dict())
    for name, delta in _deltas(lm) if lm is not model else ():
        weights[name] = weights[name] + delta
    kept: dict[str, Tensor] = {}
    places = set()
    for name, weight in weights.items():
        place = (weight.data_ptr(), weight.shape)
        if lm.config.tie_word_embeddings and place in places:
            continue
        places.add(place)
        kept[name] = weight
    return dict(revert_weight_conversion(lm, kept))


def _deltas(lm: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield what each adapter adds to a weight, with the weight's name."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in lm.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        layer: Any = module
        if not isinstance(module, LoraLayer) or layer.lora_variant:
            raise ConfigError(
                f"ppo.sampler (=vllm) must be own for an adapter of kind {type(module).__name__}: "
                "only a plain LoRA is merged on the way; change it, or merge the adapter first."
            )
        for adapter in layer.active_adapters:
            yield f"{name}.weight", layer.get_delta_weight(adapter)
