"""How far the policy has moved from its reference, in nats, and what to do about it.

The samples come from the policy, so log pi(a|s) - log pi_ref(a|s) is an unbiased estimate of
KL(pi || pi_ref), called k1. With q/p = pi_ref/pi, k2 = log(q/p)^2 / 2 is biased and has little
variance, and k3 = q/p - 1 - log(q/p) is unbiased and never negative (Schulman 2020,
joschu.net/blog/kl-approx.html). A single k1 may be negative; clamping it at 0 would bias the
penalty upward, so nothing here clamps it.

In a *reward* only the estimate matters. In a *loss* only its gradient does, and of the three only
k2's is the gradient of the KL in expectation: k1's is that of 0, and k3's that of the other KL. So
`kl_loss` has the value of whichever estimator was asked for, and always k2's gradient.

Both log-probs must be taken at the temperature that sampled: only then do they belong to the
distribution that the policy acts with, and only then is the KL of a policy to itself 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.masked import fill

LARGEST_LOG_RATIO = 20.0
"""Nats, either way, beyond which a log-ratio is cut before it is exponentiated: exp(89) overflows
float32, and a token that far off says no more."""
LARGEST_ERROR = 0.2
"""Of the adaptive coefficient: the relative error of the KL counts at most this much per update
(Ziegler et al. 2019, section 2.2)."""


def k1(logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """Return the k1 estimate of the KL at each action token, (b, t); 0 at other slots.

    Args: logprobs, ref_logprobs: (b, t) of the sampled tokens. action_mask: (b, t) bool.
    """
    return fill(logprobs - ref_logprobs, action_mask)


def estimate(logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor, estimator: str) -> Tensor:
    """Return the estimate k1, k2 or k3 of the KL at each action token, (b, t); 0 at other slots."""
    log_ratio = k1(logprobs, ref_logprobs, action_mask)
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    bounded = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return torch.expm1(-bounded) + bounded


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor, estimator: str) -> Tensor:
    """Return a loss per action token, (b, t), of the estimator's value and of k2's gradient.

    Args: logprobs: (b, t) with gradient. ref_logprobs: (b, t). action_mask: (b, t) bool.
    """
    value = estimate(logprobs.detach(), ref_logprobs, action_mask, estimator)
    slope = estimate(logprobs, ref_logprobs, action_mask, "k2")
    return value + (slope - slope.detach())


def next_coefficient(
    coef: float, kl: float, target: float | None, horizon: int, num_episodes: int
) -> float:
    """Return the coefficient after an update whose mean KL per response was `kl`.

    coef (1 + clip(kl / target - 1, -0.2, 0.2) n / horizon), section 2.2 of Ziegler et al. 2019
    (arXiv:1909.08593), where n is the update's number of episodes. Without a target it stays.
    """
    if target is None:
        return coef
    error = min(max(kl / target - 1.0, -LARGEST_ERROR), LARGEST_ERROR)
    return coef * (1.0 + error * num_episodes / horizon)
