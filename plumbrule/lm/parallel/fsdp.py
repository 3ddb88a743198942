"""Models whose weights are sharded over the processes: torch's fully sharded data parallel (FSDP2).

A process holds its slice of every layer's weights, and so of their gradients and of the optimizer's
moments; a layer's weights are whole only while it runs (under autocast, its bfloat16 copy until the
backward pass is done). What is not a trunk's (an output layer with weights of its own, a value
head) stays whole everywhere, and `distributed` sums its gradients.

Layers that run talk to the other processes, which must then run as many. Where processes do
different amounts of work (sampling, scoring), `unsharded` makes the weights whole once, for a
while, and nobody waits for anybody; where gradients are made, `padded_micro_batches` evens out the
passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import PreTrainedModel

from plumbrule.errors import ConfigError
from plumbrule.lm.logprobs import causal_lm, output_embeddings, trunk
from plumbrule.lm.parallel import distributed


class TiedHead(nn.Module):
    """The output layer of a model that has no weights for it but those of its embedding."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self._embedding = [embedding]  # in a list, so as not to be its parent

    @property
    def weight(self) -> Tensor:
        """The embedding's, whole from a pass of the trunk to the backward pass behind it."""
        return self._embedding[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits (..., v) of hidden states (..., h)."""
        return F.linear(hidden, self.weight)


def shard_policy(model: PreTrainedModel) -> None:
    """Shard a causal language model's trunk over the processes.

    Raises: ConfigError: a model that can't be sharded.
    """
    lm = causal_lm(model)
    embedding, head = cast(nn.Embedding, lm.get_input_embeddings()), output_embeddings(lm)
    tied = head.weight is embedding.weight
    if tied and [name for name, _ in head.named_parameters()] != ["weight"]:
        raise ConfigError(
            f"runtime.sharding (=fsdp) must be none for {type(lm).__name__}: its output layer is "
            "tied to the embedding and has weights of its own besides (a bias, an adapter)."
        )
    shard_trunk(trunk(model))
    if tied:
        lm.set_output_embeddings(TiedHead(embedding))


def shard_trunk(whole: nn.Module) -> None:
    """Shard a trunk over the processes: each layer by itself, then what is beside the layers.

    Gradients are summed over the processes, not averaged.
    Raises: ConfigError: it holds no list of layers.
    """
    device = next(whole.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    lists = [list(some) for some in whole.modules() if isinstance(some, nn.ModuleList)]
    layers: list[nn.Module] = max(lists, key=len, default=[])
    if not layers:
        raise ConfigError(
            f"runtime.sharding (=fsdp) must be none for {type(whole).__name__}, in which no list "
            "of layers was found."
        )
    for module in (*layers, whole):
        shard = fully_shard(module, mesh=mesh, reshard_after_forward=_is_layer(module))
        shard.set_force_sum_reduction_for_comms(True)
        shard.set_gradient_divide_factor(1.0)


def _is_layer(module: nn.Module) -> bool:
    """Return whether a part holds no other: what is beside the layers (embeddings, which a tied
    head reads after the trunk has run) stays whole until its backward pass is done.
    """
    return not any(
        isinstance(inner, FSDPModule) for inner in module.modules() if inner is not module
    )


def is_sharded(model: nn.Module) -> bool:
    """Return whether any weight of `model` is sharded over the processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def unsharded(*models: nn.Module | None) -> Iterator[None]:
    """All-gather the weights of the models (collective: every process must call it).

    Inside no pass of these models talks to another process. Models that are not sharded stay whole.
    """
    parts = _parts(models)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(_is_layer(part), recurse=False)
        reshard(*models)


def reshard(*models: nn.Module | None) -> None:
    """Let go of weights that are whole: where no backward pass has followed a forward pass."""
    for part in _parts(models):
        part.reshard()


def _parts(models: Iterable[nn.Module | None]) -> list[Any]:
    """Return all parts of the models that were sharded by themselves."""
    return [
        module
        for model in models
        if model is not None
        for module in model.modules()
        if isinstance(module, FSDPModule)
    ]


def padded_micro_batches(
    model: nn.Module, parts: Iterable[list[int]], rows: Sequence[int], part_size: int
) -> Iterator[tuple[list[int], float]]:
    """Yield this process's parts of `rows`, each with how much it counts: 1.

    Where the model is sharded, every process yields as many as the one with the most rows; the
    first of the rows then stands in, and counts 0.
    """
    mine = list(parts)
    yield from ((part, 1.0) for part in mine)
    if is_sharded(model):
        most = math.ceil(math.ceil(len(rows) / distributed.world_size()) / part_size)
        yield from (([rows[0]], 0.0) for _ in range(most - len(mine)))


def whole(value: Any) -> Any:
    """Return a tensor, or what holds tensors in dicts and lists, with no tensor sharded any more.

    Every process must come here with the same, and the main one alone gets the numbers, on the CPU.
    """
    if isinstance(value, DTensor):
        found = value.full_tensor()
        return found.cpu() if distributed.is_main() else found.new_empty(0)
    if isinstance(value, dict):
        return {key: whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    return value


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor sharded as `other` is; as it is where `other` is whole."""
    if not isinstance(other, DTensor):
        return tensor
    placed = tensor.to(other.device)
    return distribute_tensor(placed, other.device_mesh, other.placements, src_data_rank=None)


def is_sharded_tensor(tensor: Tensor) -> bool:
    """Return whether processes hold slices of a tensor."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return this process's slice of a tensor, the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients together, of sharded ones over all processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded = [local(g) for g in gradients if isinstance(g, DTensor)]
    norm = get_total_norm([g for g in gradients if not isinstance(g, DTensor)])
    if not sharded:
        return norm
    squares = get_total_norm(sharded).square()
    distributed.all_reduce_sum_([squares])
    return (squares + norm.square()).sqrt()


def scale_gradients(parameters: Sequence[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale gradients whose norm is `norm` down to `max_norm` at most."""
    clip_grads_with_norm_([p for p in parameters if not isinstance(p, DTensor)], max_norm, norm)
    coefficient = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if isinstance(parameter, DTensor) and parameter.grad is not None:
            local(parameter.grad).mul_(coefficient)
