"""The sizes of a model, known without loading it: from its files, or from what a config says of it.

No torch: a plan asks. Weights are counted in the headers of safetensors files, which is exact for
every family; layers and widths stand in `config.json` under the names that families use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.lm.config import ModelConfig

NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_size": ("head_dim",),
    "vocab_size": ("vocab_size",),
}
"""Size -> its names in config.json, of which the first that is there counts."""
UNGATED = ("gpt2", "gpt_neo", "gpt_neox", "opt", "bloom", "falcon", "phi")
"""Model types whose feed-forward layers are two matrices; the others have a third, a gate."""
LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own bound."""


class Shape(NamedTuple):
    """Sizes of a model. parameters: all weights, a tied one once. gated: whether the feed-forward
    layers are three matrices, and not two.
    """

    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    gated: bool = True

    @property
    def query_size(self) -> int:
        """Numbers of all query heads of a token."""
        return self.heads * self.head_size

    @property
    def key_size(self) -> int:
        """Numbers of all key heads of a token, and of all value heads."""
        return self.kv_heads * self.head_size

    def adapter_parameters(self, rank: int) -> int:
        """Return the weights of low-rank adapters on every matrix of the layers."""
        h, i = self.hidden_size, self.intermediate_size
        attention = 2 * (h + self.query_size) + 2 * (h + self.key_size)
        feed_forward = (3 if self.gated else 2) * (h + i)
        return rank * self.layers * (attention + feed_forward)


def shape_of(model: ModelConfig, folder: Path | None) -> Shape | None:
    """Return the sizes of a configured model; None where they are not known.

    Args: folder: where its files lie; None: they are not here.
    """
    if folder is not None:
        return shape_in(folder)
    told = model.shape
    if model.name_or_path is None:
        return _from_scratch(model)
    if told.parameters is None:
        return None
    return Shape(
        told.parameters,
        told.layers,
        told.hidden_size,
        told.intermediate_size,
        told.heads,
        told.kv_heads,
        told.head_size,
        told.vocab_size,
        gated=_is_gated(told.hidden_size, told.intermediate_size),
    )


def _from_scratch(model: ModelConfig) -> Shape:
    """Return the sizes of a Llama that the base stage makes, its output layer tied."""
    h, i, layers = model.hidden_size, model.intermediate_size, model.num_layers
    parameters = model.vocab_size * h + layers * (4 * h * h + 3 * h * i + 2 * h) + h
    heads = model.num_heads
    return Shape(parameters, layers, h, i, heads, heads, h // heads, model.vocab_size)


def shape_in(folder: Path) -> Shape | None:
    """Return the sizes of the model in a folder; None where its files do not tell."""
    config = _config(folder)
    sizes = {name: _first(config, keys) for name, keys in NAMES.items()}
    parameters = num_parameters(folder)
    h, heads = sizes["hidden_size"], sizes["heads"]
    if parameters is None or not (sizes["layers"] and h and heads and sizes["vocab_size"]):
        return None
    return Shape(
        parameters,
        sizes["layers"] or 0,
        h,
        sizes["intermediate_size"] or 4 * h,
        heads,
        sizes["kv_heads"] or heads,
        sizes["head_size"] or h // heads,
        sizes["vocab_size"] or 0,
        gated=config.get("model_type") not in UNGATED,
    )


def num_parameters(folder: Path) -> int | None:
    """Return the numbers in a folder's safetensors files; None: there are none that can be read."""
    files = sorted(folder.glob("*.safetensors"))
    try:
        return sum(_numbers_in(file) for file in files) or None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # loading says what is wrong


def _numbers_in(file: Path) -> int:
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if not 0 < size <= LONGEST_HEADER:
            raise ValueError("no header")
        header = json.loads(opened.read(size).decode("utf-8"))
    return sum(prod(about["shape"]) for name, about in header.items() if name != "__metadata__")


def _is_gated(hidden_size: int, intermediate_size: int) -> bool:
    """Return whether a model that is told by its sizes has gates: without them it widens by 4."""
    return intermediate_size != 4 * hidden_size


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    inner = found.get("text_config")
    return inner if isinstance(inner, dict) else found


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first of some keys that is a whole number above 0."""
    for name in names:
        value = config.get(name)
        if type(value) is int and value > 0:
            return value
    return None
