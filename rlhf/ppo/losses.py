"""The two losses of PPO, token by token.

Both return a loss *per token* and leave the division to the caller. A mean taken here would be a
mean over one micro-batch, and the sum of such gradients depends on how rows were cut into
micro-batches; the caller divides the sum by the action tokens of the whole mini-batch, over all
processes, and so gets one gradient for every cut.

Positions that are no action token may hold anything: they are replaced before any arithmetic, so
neither a value nor a gradient there can leak (`rlhf/masked.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.masked import fill
from rlhf.ppo.kl import LARGEST_LOG_RATIO
from rlhf.ppo.loss_inputs import PolicyLossInputs
from rlhf.ppo.options import POLICY_LOSSES

INVALID_LOGPROB = 1.0
"""Stands in both log-probs of a masked position, so that its ratio is exp(0) = 1."""


class PolicyLoss(NamedTuple):
    """All (b, t). Elsewhere loss and log_ratio are 0, ratio is 1, clipped and cut are False."""

    loss: Tensor
    """Of each action token, with gradient."""
    log_ratio: Tensor
    """log pi(a|s) - log pi_old(a|s), detached, nats."""
    ratio: Tensor
    """Its exponential, detached."""
    clipped: Tensor
    """bool: the clipped branch is the larger, so the token has no gradient."""
    cut: Tensor
    """bool: the log-ratio was beyond what is exponentiated, so the token has no gradient."""


class ValueLoss(NamedTuple):
    """Both (b, t). Elsewhere loss is 0 and clipped is False."""

    loss: Tensor
    clipped: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    action_mask: Tensor,
    cliprange: float,
    dual_clip: float | None = None,
    kind: str = "clip",
) -> PolicyLoss:
    """Return the loss of each token by the policy loss `kind`, and what became of its ratio.

    Args: logprobs: (b, t) with gradient. old_logprobs, advantages: (b, t). action_mask: (b, t)
    bool. cliprange: eps. dual_clip: c, above 1. kind: a name in `options.POLICY_LOSSES`.
    Raises: ConfigError: no such name.
    """
    new, old = (fill(x, action_mask, INVALID_LOGPROB) for x in (logprobs, old_logprobs))
    log_ratio = new - old
    ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    advantages = fill(advantages, action_mask)
    loss, is_clipped = POLICY_LOSSES[kind](
        PolicyLossInputs(new, old, ratio, advantages, action_mask, cliprange, dual_clip)
    )
    cut = log_ratio.abs() > LARGEST_LOG_RATIO
    clipped = is_clipped.detach().bool() & action_mask
    return PolicyLoss(fill(loss, action_mask), log_ratio.detach(), ratio.detach(), clipped, cut)


def clipped_surrogate(given: PolicyLossInputs) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate max(-A r, -A clip(r, 1 - eps, 1 + eps)), and which tokens it clips.

    Eq. 7 of Schulman et al. 2017 (arXiv:1707.06347), with its sign turned. With `dual_clip` c it is
    at most -A c where A < 0 (Ye et al. 2020, arXiv:1912.09729, eq. 5): such a token's loss has no
    bound otherwise.
    """
    ratio, advantages = given.ratio, given.advantages
    cliprange, dual_clip = given.cliprange, given.dual_clip
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    loss, is_clipped = torch.maximum(unclipped, clipped), clipped > unclipped
    if dual_clip is not None:
        bound = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
        loss, is_clipped = torch.minimum(loss, bound), is_clipped | (loss > bound)
    return loss, is_clipped


def importance_weights(
    logprobs: Tensor, rollout_logprobs: Tensor, action_mask: Tensor, cap: float
) -> Tensor:
    """Return min(pi(a|s) / mu(a|s), cap) of each action token, (b, t); 1 elsewhere.

    mu is the sampler that gave the tokens, pi the policy that it stands for: a loss under mu's
    tokens, weighted so, is one under pi's, up to what the cap takes off (truncated importance
    sampling, Ionides 2008).

    Args: logprobs: (b, t) of the policy before the update. rollout_logprobs: (b, t).
    """
    log_weights = fill(logprobs - rollout_logprobs, action_mask)
    return log_weights.clamp(max=LARGEST_LOG_RATIO).exp().clamp(max=cap)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    action_mask: Tensor,
    cliprange_value: float,
) -> ValueLoss:
    """Return 0.5 max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2) of each token.

    The larger of the two, so that a value which moved further than eps in the *right* direction
    gets no gradient, and one that moved in the wrong direction always does. Not in the paper; from
    its code (github.com/openai/baselines, ppo2).

    Args: values: (b, t) with gradient. old_values, returns: (b, t). action_mask: (b, t) bool.
    """
    values, old_values = fill(values, action_mask), fill(old_values, action_mask)
    returns = fill(returns, action_mask)
    near_old = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    unclipped, clipped = (values - returns).square(), (near_old - returns).square()
    loss = 0.5 * torch.maximum(unclipped, clipped)
    return ValueLoss(loss, (clipped > unclipped).detach())
