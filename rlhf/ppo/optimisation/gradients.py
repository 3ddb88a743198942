"""Gradients between a backward pass and an optimizer step: summed over processes, and clipped.

Those of policy and value model are clipped apart: under one common norm a value model that starts
badly would shrink the policy's steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from plumbrule.errors import TrainingError
from plumbrule.lm.parallel import distributed, fsdp
from rlhf.ppo.optimisation.learner import trainable


def reduce_gradients(models: Mapping[str, nn.Module], sums: Sequence[Tensor]) -> None:
    """Replace gradients and sums by their sums over all processes.

    Those of sharded weights are sums already.
    """
    parameters = [p for model in models.values() for p in trainable(model)]
    for parameter in parameters:
        if parameter.grad is None:  # this process had no rows, or a layer that nothing reads
            parameter.grad = torch.zeros_like(parameter)
    kept_whole = [
        p.grad for p in parameters if p.grad is not None and not fsdp.is_sharded_tensor(p)
    ]
    distributed.all_reduce_sum_([*kept_whole, *sums])


def clip_gradients(
    models: Mapping[str, nn.Module], max_norm: float, where: str
) -> dict[str, float]:
    """Scale each model's gradient down to `max_norm` at most; return the norms before.

    Raises: TrainingError: a gradient is NaN or Inf; it names the first such parameter.
    """
    norms = {}
    for name, model in models.items():
        parameters = trainable(model)
        norm = fsdp.gradient_norm(parameters)
        if not torch.isfinite(norm):  # before scaling, which would spread it to every parameter
            raise TrainingError(
                f"gradient of the {name} at {where} (={float(norm)}) must be finite; "
                f"{non_finite_gradients(model)}."
            )
        fsdp.scale_gradients(parameters, max_norm, norm)
        norms[name] = float(norm)
    return norms


def non_finite_gradients(model: nn.Module) -> str:
    """Return a clause that names the parameters whose gradients are not finite."""
    named = [
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not torch.isfinite(fsdp.local(p.grad)).all()
    ]
    every = {name for part in distributed.gather_objects(named) for name in part}
    first = next((name for name, _ in model.named_parameters() if name in every), None)
    return f"first of {len(every)} parameters: {first}" if first else "its norm overflows"
