"""How the losses of a mini-batch's tokens become one number: a weight for each row, and a divisor.

The sum over tokens of weight * loss, divided by the divisor, is the loss of an optimizer step. Both
are functions of lengths and settings alone, so they are known before the first forward pass, and
the gradient does not depend on how rows are cut into micro-batches.

    token      mean over the mini-batch's action tokens: a long response weighs more (PPO; DAPO, Yu
               et al. 2025, arXiv:2503.14476, section 3.3)
    sequence   mean over each response's action tokens, then over responses (GRPO, Shao et al. 2024,
               arXiv:2402.03300, eq. 3; GSPO, Zheng et al. 2025, arXiv:2507.18071, eq. 5)
    constant   sum over tokens by responses times the length limit, which no sampled length enters
               (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783, section 3.2)

Rows can be left out (`ppo.mask_unfinished`, section 3.4 of DAPO): they weigh 0, and `token` and
`sequence` do not count them in the divisor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.ppo.options import LOSS_AGGREGATIONS


def row_weights(num_tokens: Tensor, kept: Tensor, aggregation: str) -> Tensor:
    """Return what the loss of each token of a row is multiplied by, (n,) float64.

    Args: num_tokens: (n,) int64, action tokens of each row. kept: (n,) bool, False = left out.
    aggregation: one of LOSS_AGGREGATIONS.
    Raises: ValueError: another one.
    """
    weights = torch.ones(num_tokens.shape, dtype=torch.float64, device=num_tokens.device)
    if aggregation == "sequence":
        weights = weights / num_tokens
    elif aggregation not in LOSS_AGGREGATIONS:
        raise ValueError(
            f"aggregation (={aggregation!r}) must be one of {', '.join(LOSS_AGGREGATIONS)}."
        )
    return torch.where(kept, weights, 0.0)


def loss_divisor(num_tokens: Tensor, kept: Tensor, aggregation: str, limit_tokens: int) -> float:
    """Return what the weighted sum over a mini-batch is divided by; at least 1.

    Args: num_tokens, kept: (n,) of all rows of the mini-batch. limit_tokens: the longest response
    that may be sampled.
    """
    if aggregation == "token":
        divisor = int(num_tokens[kept].sum())
    elif aggregation == "sequence":
        divisor = int(kept.sum())
    else:
        divisor = len(num_tokens) * limit_tokens
    return float(max(1, divisor))
