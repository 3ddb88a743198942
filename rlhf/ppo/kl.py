"""How far the policy has moved from its reference, in nats, and what to do about it.

The samples come from the policy, so log pi(a|s) - log pi_ref(a|s) is an unbiased estimate of
KL(pi || pi_ref), called k1. With q/p = pi_ref/pi, k2 = log(q/p)^2 / 2 is biased and has little
variance, and k3 = q/p - 1 - log(q/p) is unbiased and never negative (Schulman 2020,
joschu.net/blog/kl-approx.html). A single k1 may be negative; clamping it at 0 would bias the
penalty upward, so nothing here clamps it.

In a *reward* only the estimate matters. In a *loss* only its gradient does, and of the three only
k2's is the gradient of the KL in expectation: k1's is that of 0, and k3's that of the other KL. So
`kl_loss` has the value of whichever estimator was asked for, and always k2's gradient. After the
first step the tokens are no longer the policy's own but those of the one that sampled them, and
both are weighted by the probability ratio of the two, as the policy loss is.

k3 has one bad side: a token that the policy thinks e^-20 times as likely as the reference would be
charged 4.85e8 nats. Such a token is nearly never sampled, which is how k3 stays unbiased; the one
update that holds it would be about nothing else. So k3 is cut at `LARGEST_K3` nats, which takes off
at most the reference's probability of such tokens, and what was cut is counted.

Both log-probs must be taken at the temperature that sampled: only then do they belong to the
distribution that the policy acts with, and only then is the KL of a policy to itself 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.masked import fill
from rlhf.ppo.options import KL_ESTIMATORS

LARGEST_LOG_RATIO = 20.0
"""Nats, either way, beyond which a log-ratio is cut before it is exponentiated: exp(89) overflows
float32, and a token that far off says no more."""
LARGEST_K3 = 20.0
"""Nats that k3 charges a token at most: as many as the largest log-ratio that is
exponentiated. exp(x) - 1 - x reaches it at x = 3.18, where the policy gives a token about 24 times
less probability than its reference."""
LARGEST_ERROR = 0.2
"""Of the adaptive coefficient: the relative error of the KL counts at most this much per update
(Ziegler et al. 2019, section 2.2)."""


def k1(logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """Return the k1 estimate of the KL at each action token, (b, t); 0 elsewhere.

    Args: logprobs, ref_logprobs: (b, t) of the sampled tokens. action_mask: (b, t) bool.
    """
    return fill(logprobs - ref_logprobs, action_mask)


def estimate(logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor, estimator: str) -> Tensor:
    """Return an estimate of the KL at each action token, (b, t) nats; 0 elsewhere.

    Args: estimator: a name in `options.KL_ESTIMATORS`.
    Raises: ConfigError: no such name.
    """
    log_ratio = k1(logprobs, ref_logprobs, action_mask)
    return fill(KL_ESTIMATORS[estimator](log_ratio), action_mask)


def plain(log_ratio: Tensor) -> Tensor:
    """k1, log(p/q): unbiased, negative where the token is likelier under the reference."""
    return log_ratio


def half_square(log_ratio: Tensor) -> Tensor:
    """k2, log(p/q)^2 / 2: biased, of little variance, never negative."""
    return 0.5 * log_ratio.square()


def bregman(log_ratio: Tensor) -> Tensor:
    """k3, q/p - 1 - log(q/p), at most 20 nats: unbiased but for that cut, never negative."""
    bounded = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return (torch.expm1(-bounded) + bounded).clamp(max=LARGEST_K3)


def num_cut(log_ratio: Tensor, estimator: str) -> int:
    """Return how many tokens' estimates were cut, given their k1 (b, t); only k3 cuts any."""
    if estimator != "k3":
        return 0
    exact = torch.expm1(-log_ratio.double()) + log_ratio
    return int(((exact > LARGEST_K3) | (log_ratio.abs() > LARGEST_LOG_RATIO)).sum())


def kl_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    action_mask: Tensor,
    estimator: str,
    ratio: Tensor | None = None,
) -> Tensor:
    """Return a loss per action token, (b, t), of the estimator's value and of k2's gradient.

    Its mean over tokens of the old policy, weighted by the ratio, is an estimate of
    KL(pi || pi_ref), and so is its gradient: sum_a pi_old (pi / pi_old) log(pi / pi_ref) grad log
    pi. Left out is, as in the policy loss, how often each *state* is reached under either policy.

    Args: logprobs: (b, t) with gradient. ref_logprobs: (b, t). action_mask: (b, t) bool. ratio:
    (b, t), pi / pi_old, detached; None: the tokens are the policy's own.
    """
    value = estimate(logprobs.detach(), ref_logprobs, action_mask, estimator)
    slope = estimate(logprobs, ref_logprobs, action_mask, "k2")
    loss = value + (slope - slope.detach())
    return loss if ratio is None else ratio * loss


class KLWeights(NamedTuple):
    """Where the KL coefficient goes: to one of the two, and 0 to the other."""

    in_reward: float
    """Subtracted from each token's reward, per nat."""
    in_loss: float
    """Weight of `kl_loss` beside the policy loss."""


def kl_weights(coef: float, where: str) -> KLWeights:
    """Return the weights of the KL for `ppo.kl.where`: reward or loss."""
    return KLWeights(coef, 0.0) if where == "reward" else KLWeights(0.0, coef)


def next_kl_coefficient(
    coef: float, kl: float, target: float | None, horizon: int, num_episodes: int
) -> float:
    """Return the coefficient after an update whose mean KL per response was `kl`.

    coef (1 + clip(kl / target - 1, -0.2, 0.2) n / horizon), section 2.2 of Ziegler et al. 2019
    (arXiv:1909.08593), where n is the update's number of episodes. Without a target it stays. The
    config sees to a horizon above n / 5, below which the coefficient would turn negative.
    """
    if target is None:
        return coef
    error = min(max(kl / target - 1.0, -LARGEST_ERROR), LARGEST_ERROR)
    return coef * (1.0 + error * num_episodes / horizon)
