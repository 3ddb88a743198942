"""How much better a token was than expected: generalised advantage estimation.

An episode is the sequence of a response's *action* tokens. Text that the policy did not write (a
retrieved passage or a tool's output inside a response) takes no step of the process: its slots are
skipped, and the value and the advantage of the next action token carry over the gap, however long
it is. A response that was cut by the length limit ends like any other, with value 0 after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Advantages(NamedTuple):
    """Both (b, t), 0 at slots that are no action token."""

    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor, values: Tensor, action_mask: Tensor, gamma: float, lam: float
) -> Advantages:
    """Return generalised advantages and returns (advantage + value), both (b, t) like `values`.

    Eqs. 11-16 of Schulman et al. 2016 (arXiv:1506.02438) over action tokens; the value after the
    last one is 0. Not whitened: whiten the advantages over the whole rollout afterwards. The
    returns are made here so that whitening can't reach them.

    Args: rewards, values: (b, t); values[i, j] is that of the state before token j. action_mask:
    (b, t) bool; other slots may hold anything. gamma: discount per action. lam: lambda in [0, 1].
    Raises: ValueError: shapes differ, or a row of `action_mask` holds no True.
    """
    if not rewards.shape == values.shape == action_mask.shape:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, values {tuple(values.shape)} and action_mask "
            f"{tuple(action_mask.shape)} must have one shape (b, t)."
        )
    if not bool(action_mask.any(dim=1).all()):
        raise ValueError(
            "action_mask must hold an action token in every row; drop empty responses."
        )
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(next_value)
    for slot in reversed(range(values.shape[1])):
        acts = action_mask[:, slot]
        delta = rewards[:, slot] + gamma * next_value - values[:, slot]
        advantage = delta + gamma * lam * next_advantage
        next_advantage = torch.where(acts, advantage, next_advantage)
        next_value = torch.where(acts, values[:, slot], next_value)
        advantages[:, slot] = torch.where(acts, advantage, 0.0)
    return Advantages(advantages, torch.where(action_mask, advantages + values, 0.0))
