"""Adam as TensorFlow has it, and so the first RLHF code (Ziegler et al. 2019).

PyTorch divides by sqrt(v) / sqrt(1 - beta2^t) + eps, TensorFlow by sqrt(v) + eps and scales the
rate by sqrt(1 - beta2^t) / (1 - beta1^t): "epsilon hat" in section 2 of Kingma and Ba
(arXiv:1412.6980). In the first steps, where 1 - beta2^t is small, TensorFlow's epsilon is in effect
up to thirty times larger, and its steps on small gradients are that much shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class TensorFlowAdam(torch.optim.Optimizer):
    """Adam without weight decay, epsilon added before the bias correction."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient. `closure` is not used."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                count = float(state["step"])
                state["exp_avg"].lerp_(parameter.grad, 1.0 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(
                    parameter.grad, parameter.grad, value=1.0 - beta2
                )
                rate = group["lr"] * math.sqrt(1.0 - beta2**count) / (1.0 - beta1**count)
                parameter.addcdiv_(
                    state["exp_avg"], state["exp_avg_sq"].sqrt() + group["eps"], value=-rate
                )
