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
from rlhf.ppo.options import IMPORTANCE_LEVELS, OUTSIDE_RULES, POLICY_LOSSES

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
    """bool: the log-ratio was beyond what is exponentiated, so the token has no gradient (cispo:
    that of the bounded weight)."""


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
    cliprange_high: float | None = None,
) -> PolicyLoss:
    """Return the loss of each token by the policy loss `kind`, and what became of its ratio.

    Args: logprobs: (b, t) with gradient. old_logprobs, advantages: (b, t). action_mask: (b, t)
    bool. cliprange: eps. dual_clip: c, above 1. kind: a name in `options.POLICY_LOSSES`.
    cliprange_high: eps above 1; None: that below.
    Raises: ConfigError: no such name.
    """
    new, old = (fill(x, action_mask, INVALID_LOGPROB) for x in (logprobs, old_logprobs))
    log_ratio = new - old
    ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    advantages = fill(advantages, action_mask)
    high = cliprange if cliprange_high is None else cliprange_high
    loss, is_clipped = POLICY_LOSSES[kind](
        PolicyLossInputs(new, old, ratio, advantages, action_mask, cliprange, high, dual_clip)
    )
    cut = log_ratio.abs() > LARGEST_LOG_RATIO
    clipped = is_clipped.detach().bool() & action_mask
    return PolicyLoss(fill(loss, action_mask), log_ratio.detach(), ratio.detach(), clipped, cut)


def clipped_surrogate(given: PolicyLossInputs) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate max(-A r, -A clip(r, 1 - eps, 1 + eps)), and which tokens it clips.

    Eq. 7 of Schulman et al. 2017 (arXiv:1707.06347), with its sign turned; the upper eps may be
    another than the lower one (clip-higher, Yu et al. 2025, arXiv:2503.14476, eq. 10). With
    `dual_clip` c it is at most -A c where A < 0 (Ye et al. 2020, arXiv:1912.09729, eq. 5): such a
    token's loss has no bound otherwise.
    """
    return _surrogate(given, given.ratio)


def sequence_surrogate(given: PolicyLossInputs) -> tuple[Tensor, Tensor]:
    """The clipped surrogate of a response's ratio, the geometric mean of its tokens' ratios.

    GSPO (Zheng et al. 2025, arXiv:2507.18071, eqs. 5 to 7) in its form for advantages that differ
    by token (GSPO-token, eqs. 13 and 14): at each token the value is the response's ratio, the
    gradient that of the token's own log-prob. All tokens of a response are clipped, or none. Its
    paper clips at 3e-4 and 4e-4 and aggregates by sequence (`ppo.loss_aggregation`).
    """
    mask = given.action_mask
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    log_ratio = fill((given.logprobs - given.old_logprobs).detach(), mask)
    mean = log_ratio.double().sum(dim=1, keepdim=True) / lengths
    of_row = mean.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp().to(log_ratio.dtype)
    return _surrogate(given, of_row * (given.logprobs - given.logprobs.detach()).exp())


def clipped_weights(given: PolicyLossInputs) -> tuple[Tensor, Tensor]:
    """-A sg(clip(r, 1 - eps, 1 + eps_high)) log pi: a token outside the band keeps a gradient.

    CISPO (MiniMax 2025, arXiv:2506.13585, eqs. 4 and 5): the ratio is a bounded weight and no part
    of what is differentiated. Its paper has no lower bound: eps of 1 or more. `dual_clip` does not
    apply. "Clipped" are the tokens whose weight was bounded.
    """
    weight = given.ratio.detach().clamp(1.0 - given.cliprange, 1.0 + given.cliprange_high)
    return -given.advantages * weight * given.logprobs, weight != given.ratio.detach()


def _surrogate(given: PolicyLossInputs, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the clipped surrogate of a ratio (b, t), and where it is clipped."""
    advantages, dual_clip = given.advantages, given.dual_clip
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - given.cliprange, 1.0 + given.cliprange_high)
    loss, is_clipped = torch.maximum(unclipped, clipped), clipped > unclipped
    if dual_clip is not None:
        bound = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
        loss, is_clipped = torch.minimum(loss, bound), is_clipped | (loss > bound)
    return loss, is_clipped


class ImportanceWeights(NamedTuple):
    """Both (b, t)."""

    weights: Tensor
    """1 at masked positions."""
    outside: Tensor
    """bool: the token's, or its response's, ratio was beyond a bound."""


def importance_weights(
    logprobs: Tensor,
    rollout_logprobs: Tensor,
    action_mask: Tensor,
    cap: float,
    floor: float = 0.0,
    level: str = "token",
    outside: str = "clip",
) -> ImportanceWeights:
    """Return what each action token's loss is multiplied by where pi did not sample it itself.

    mu is the sampler that gave the tokens, pi the policy that it stands for. A loss under mu's
    tokens, weighted by pi / mu, is one under pi's, up to what the bounds take off (truncated
    importance sampling, Ionides 2008).

    Args: logprobs: (b, t) of the policy before the update. rollout_logprobs: (b, t). cap, floor:
    largest and least ratio. level: token: its own ratio; sequence: the product over the response,
    which is unbiased and varies most; geometric: its mean per token. outside: clip: a ratio beyond
    a bound becomes the bound; mask: the token, or the response, counts 0.
    Raises: ValueError: another level, or another rule outside.
    """
    if level not in IMPORTANCE_LEVELS or outside not in OUTSIDE_RULES:
        raise ValueError(
            f"level (={level!r}) must be one of {', '.join(IMPORTANCE_LEVELS)}, and outside "
            f"(={outside!r}) one of {', '.join(OUTSIDE_RULES)}."
        )
    log_weights = fill(logprobs - rollout_logprobs, action_mask)
    if level != "token":
        total = log_weights.double().sum(dim=1, keepdim=True)
        if level == "geometric":
            total = total / action_mask.sum(dim=1, keepdim=True).clamp(min=1)
        log_weights = fill(total.to(log_weights.dtype).expand_as(log_weights), action_mask)
    ratio = log_weights.clamp(max=LARGEST_LOG_RATIO).exp()
    beyond = ((ratio > cap) | (ratio < floor)) & action_mask
    bounded = torch.where(beyond, 0.0, ratio) if outside == "mask" else ratio.clamp(floor, cap)
    return ImportanceWeights(fill(bounded, action_mask, 1.0), beyond)


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
