"""A model split between two layers: frozen ones below, read once, and ones above that learn.

What the frozen layers make of a row never changes, so it is computed once and read in every epoch;
backward passes end where the frozen layers end. Only models that run unpadded can be split: layers
that need more than hidden states and positions would compute something else. Whether the two parts
compute what the whole does is tried on a short row.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plumbrule.errors import ConfigError
from plumbrule.lm.logprobs import causal_lm, hidden_states, pad_rows, trunk
from plumbrule.lm.unpadded import attention
from plumbrule.protocols import Tracker
from plumbrule.store.adapter_files import merge_command

M = TypeVar("M", bound=nn.Module)
LAYERS = "layers"
NORMS = ("norm", "final_layer_norm", "final_layernorm")
"""What families call the normalisation after the last layer."""
PROBE_TOKENS = 8
"""Of the row on which a split model is compared with the whole one."""


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


class Parts(NamedTuple):
    """A trunk, seen as layers: `lower` are to be frozen, `upper` and `norm` learn."""

    lower: nn.ModuleList
    upper: nn.ModuleList
    norm: nn.Module
    norm_name: str


class SplitTrunk(NamedTuple):
    """A trunk whose lower layers are frozen. top: its upper layers, which read hidden states."""

    frozen: FrozenLayers
    top: nn.Module


def freeze_lower_layers(
    lm: PreTrainedModel, top: int, pad_id: int, setting: str, source: str | None
) -> SplitTrunk:
    """Freeze all of a model but its `top` upper layers and last normalisation; return both parts.

    Args: setting: that asks for it, for errors. source: where the model comes from, for messages.
    Raises: ConfigError: the model can't be split there.
    """
    lower, upper, norm, norm_name = parts_of(lm, top, setting, source)
    whole = trunk(lm)
    frozen = FrozenLayers(
        clone_sharing_weights(whole, **{LAYERS: lower, norm_name: nn.Identity()}), pad_id
    )
    reader = clone_sharing_weights(whole, **{LAYERS: upper})
    check_split(whole, frozen, reader, setting)
    lm.requires_grad_(False)
    upper.requires_grad_(True)
    norm.requires_grad_(True)
    return SplitTrunk(frozen, reader)


def parts_of(lm: PreTrainedModel, top: int, setting: str, source: str | None) -> Parts:
    """Return the layers of a model, and the normalisation behind them.

    Raises: ConfigError: it is an adapter, has no such layers, or does not run unpadded.
    """
    whole = trunk(lm)
    children = dict(whole.named_children())
    layers, norms = children.get(LAYERS), [n for n in NORMS if n in children]
    if causal_lm(lm) is not lm:
        raise ConfigError(
            f"{setting} (={top}) must be left out for a policy that is an adapter; set "
            f"{setting.partition('.')[0]}.adapter.inherited=merge, or merge it first: "
            f"{merge_command(source or 'POLICY')}."
        )
    if not isinstance(layers, nn.ModuleList) or not norms:
        raise ConfigError(
            f"{setting} (={top}) must be left out for {type(lm).__name__}, which has no "
            f"`{LAYERS}` with a normalisation behind them."
        )
    if not attention.is_unpadded(lm):
        raise ConfigError(
            f"{setting} (={top}) must be left out for {type(lm).__name__}: not all of "
            "its layers attend to all earlier tokens."
        )
    number = len(layers)
    if top >= number:
        raise ConfigError(
            f"{setting} (={top}) must be fewer than the model's {number} layers; lower "
            "it, or leave it out to train all."
        )
    lower, upper = layers[: number - top], layers[number - top :]
    return Parts(lower, upper, children[norms[0]], norms[0])


def check_split(whole: nn.Module, frozen: FrozenLayers, top: nn.Module, setting: str) -> None:
    """Raise ConfigError unless frozen layers and top together compute what the whole trunk does."""
    device = next(whole.parameters()).device
    tokens = torch.arange(PROBE_TOKENS, device=device)[None]
    real_mask = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        expected = hidden_states(whole, tokens, real_mask)
        [states] = frozen.read(tokens.tolist(), 1)
        found = hidden_states(top, tokens, real_mask, states)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        raise ConfigError(
            f"{setting} must be left out for {type(whole).__name__}: its lower and upper "
            "layers, run apart, do not compute what it does."
        )


def clone_sharing_weights(module: M, **replaced: nn.Module | None) -> M:
    """Return a module like `module` with some children replaced; it shares all others."""
    other = copy.copy(module)
    other._modules = {**module._modules, **replaced}
    return other


class KeptStates:
    """What frozen layers make of rows, computed once, in a file that is mapped into memory.

    The file has no name, so a process that dies leaves nothing of it; pages that were not read for
    a while leave the memory by themselves. It takes 4 bytes (8 in float64) for each hidden unit of
    each token.

    Args: rows: token ids; equal rows are computed once. folder: on whose disk the file lies.
    Raises: ConfigError: the disk has too little space.
    """

    def __init__(
        self,
        split: SplitTrunk,
        rows: Sequence[tuple[int, ...]],
        micro_batch_size: int,
        folder: Path,
        tracker: Tracker,
    ):
        self.split = split
        distinct = sorted(dict.fromkeys(rows), key=len, reverse=True)
        self._begins: dict[tuple[int, ...], int] = {}
        self._states: Tensor | None = None
        if not distinct:
            return
        [short] = split.frozen.read(distinct[-1:], 1)
        width, kept = short.shape[-1], torch.promote_types(short.dtype, torch.float32)
        number = sum(len(row) for row in distinct)
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = number * width * kept.itemsize, shutil.disk_usage(folder).free
        if needed > free:
            raise ConfigError(
                f"{folder} (={free / 2**30:.3g} GiB free) must have room for the hidden states of "
                f"{number:,} tokens (={needed / 2**30:.3g} GiB); free some, or train on fewer rows."
            )
        with tempfile.TemporaryFile(dir=folder) as file:
            shape = (number, width)
            array = np.memmap(file, np.dtype(str(kept).removeprefix("torch.")), "w+", shape=shape)
        self._states = torch.from_numpy(array)
        begin = 0
        with tracker.progress(len(distinct), "rm frozen layers", "answers") as line:
            for first in range(0, len(distinct), micro_batch_size):
                some = distinct[first : first + micro_batch_size]
                for row, states in zip(some, split.frozen.read(some, len(some)), strict=True):
                    self._states[begin : begin + len(row)] = states.to(kept).cpu()
                    self._begins[row] = begin
                    begin += len(row)
                line.advance(len(some))

    def of(self, tokens: Tensor, real_mask: Tensor) -> Tensor | None:
        """Return the states (n, h) of the n real tokens of a batch (b, l), row by row.

        None: a row of it was not kept.
        """
        rows = [tuple(row[real].tolist()) for row, real in zip(tokens, real_mask, strict=True)]
        if self._states is None or any(row not in self._begins for row in rows):
            return None
        begins = [self._begins[row] for row in rows]
        parts = [self._states[b : b + len(row)] for b, row in zip(begins, rows, strict=True)]
        return torch.cat(parts).to(tokens.device)
