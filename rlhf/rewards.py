"""From scores of whole responses to a reward per token.

The order is fixed, since each step changes what the next one sees:

1. `weighted_sum`         reward terms (b,) each -> raw scores (b,)
2. `penalise_unfinished`  a response that never gave its terminal token loses a constant, once
3. `shape_rewards`        -beta * KL at each action token, and the score at the last one
4. `whiten` (optional)    unit variance over the action tokens of the rollout; the mean stays

The score lands on the last action token itself, which is the terminal token where there is one.
(TRL and the code of Huang et al. 2024, arXiv:2403.17031, put it one slot later, on a padding
state, and so discount it once more when lambda < 1.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf.masked import fill


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return sum_k weights[k] * terms[k], (b,) of the terms' dtype; other terms do not count.

    Raises: ValueError: a weight without its term, or no weight at all.
    """
    if not weights or set(weights) - set(terms):
        raise ValueError(f"terms (={sorted(terms)}) must hold all weights (={sorted(weights)}).")
    return torch.stack([weight * terms[name] for name, weight in sorted(weights.items())]).sum(0)


def penalise_unfinished(scores: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """Return scores (b,), less `penalty` where `finished` (b,) bool is False.

    `finished` is the sampler's word that the stop token *in use* was sampled; it is not searched
    for in the ids, where it could be missed (another stop token) or found twice.
    """
    return torch.where(finished, scores, scores - penalty)


def last_action(action_mask: Tensor) -> Tensor:
    """Return the slot of the last action token of each row, (b,) int64.

    Raises: ValueError: a row of `action_mask` holds no True.
    """
    if not bool(action_mask.any(dim=1).all()):
        raise ValueError(
            "action_mask must hold an action token in every row; drop empty responses."
        )
    slots = torch.arange(action_mask.shape[1], device=action_mask.device)
    return torch.where(action_mask, slots, -1).max(dim=1).values


def shape_rewards(scores: Tensor, kl: Tensor, action_mask: Tensor, coef: float) -> Tensor:
    """Return rewards (b, t): -coef * kl at action tokens, plus the score at the last; 0 elsewhere.

    Eq. 2 of Stiennon et al. 2020 (arXiv:2009.01325), token by token.

    Args: scores: (b,). kl: (b, t), nats. action_mask: (b, t) bool. coef: reward per nat.
    Raises: ValueError: a row of `action_mask` holds no True.
    """
    last = last_action(action_mask)[:, None]
    rewards = fill(-coef * kl, action_mask)
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))
