"""An exponential moving average of a policy's weights, taken after each update.

Averaged weights move more smoothly than the last ones (Ouyang et al. 2022, arXiv:2203.02155,
appendix C.4, decay 0.992). The average begins as the weights do and needs no bias correction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plumbrule.lm.parallel import fsdp


class AveragedWeights:
    """The average of a module's trainable parameters, float32 or wider."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.average = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32)).clone()
            for name, p in model.named_parameters()
            if p.requires_grad
        }

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Take in the module's weights as they are now: average = d average + (1 - d) weights."""
        for name, parameter in model.named_parameters():
            if name in self.average:
                self.average[name].lerp_(parameter.to(self.average[name].dtype), 1.0 - self.decay)

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Replace the module's weights by their average."""
        for name, parameter in model.named_parameters():
            if name in self.average:
                parameter.copy_(self.average[name])

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the average from a checkpoint."""
        for name, tensor in tensors.items():
            self.average[name].copy_(fsdp.shard_like(tensor, self.average[name]))
