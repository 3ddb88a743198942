"""PPO in plain Python floats, written from the papers and not from our code; slow on purpose.

A row is a list over response slots; `mask` says which slots are action tokens. Nothing here knows
of tensors, padding or batches: functions of a row first drop every slot that is no action token.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Row = list[float]
Mask = list[bool]


def actions(row: Row, mask: Mask) -> Row:
    return [x for x, acts in zip(row, mask, strict=True) if acts]


def spread(row: Row, mask: Mask, elsewhere: float = 0.0) -> Row:
    """Put one number per action token back into its slot."""
    rest = iter(row)
    return [next(rest) if acts else elsewhere for acts in mask]


def token_rewards(score: float, logprobs: Row, ref_logprobs: Row, mask: Mask, coef: float) -> Row:
    """Stiennon et al. 2020, eq. 2: the score at the end, -coef log(pi / pi_ref) at every token."""
    pairs = zip(actions(logprobs, mask), actions(ref_logprobs, mask), strict=True)
    rewards = [-coef * (new - ref) for new, ref in pairs]
    rewards[-1] += score
    return spread(rewards, mask)


def advantages(rewards: Row, values: Row, mask: Mask, gamma: float, lam: float) -> Row:
    """Schulman et al. 2016, eq. 16, as the double sum it is: sum_l (gamma lam)^l delta_{t+l}."""
    r, v = actions(rewards, mask), [*actions(values, mask), 0.0]
    deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
    sums = [
        sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas)))
        for t in range(len(deltas))
    ]
    return spread(sums, mask)


def returns(rewards: Row, values: Row, mask: Mask, gamma: float, lam: float) -> Row:
    pairs = zip(advantages(rewards, values, mask, gamma, lam), values, strict=True)
    return [a + v if acts else 0.0 for (a, v), acts in zip(pairs, mask, strict=True)]


def whitened(rows: list[Row], masks: list[Mask], shift_mean: bool = True) -> list[Row]:
    """Unit population variance over all action tokens of all rows."""
    flat = [x for row, mask in zip(rows, masks, strict=True) for x in actions(row, mask)]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((x - mean) ** 2 for x in flat) / len(flat) + 1e-8)
    kept = 0.0 if shift_mean else mean
    return [
        [(x - mean) / std + kept if acts else 0.0 for x, acts in zip(row, mask, strict=True)]
        for row, mask in zip(rows, masks, strict=True)
    ]


def kl_estimate(new: float, ref: float, kind: str) -> float:
    """Schulman 2020, samples of p, r = q/p: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r."""
    log_r = ref - new
    return {"k1": -log_r, "k2": log_r**2 / 2, "k3": math.exp(log_r) - 1 - log_r}[kind]


def group_baseline(totals: list[float], size: int, kind: str) -> list[float]:
    """One advantage per response from the returns of its group."""
    found = []
    for start in range(0, len(totals), size):
        group = totals[start : start + size]
        mean = sum(group) / size
        deviation = math.sqrt(sum((x - mean) ** 2 for x in group) / (size - 1))
        for i, own in enumerate(group):
            if kind == "rloo":  # Ahmadian et al. 2024, eq. 8: the mean of the others
                found.append(own - sum(x for j, x in enumerate(group) if j != i) / (size - 1))
            elif kind == "grpo":
                found.append((own - mean) / (deviation + 1e-4))
            else:
                found.append(own - mean)
    return found


def policy_loss(
    new: Row, old: Row, advantage: Row, mask: Mask, eps: float, dual: float | None = None
) -> list[float]:
    """Schulman et al. 2017, eq. 7, negated; one number per action token.

    Dual clip, Ye et al. 2020, eq. 5: max(min(r A, clip(r) A), c A) where A < 0, before the sign.
    """
    losses = []
    for n, o, a in zip(
        actions(new, mask), actions(old, mask), actions(advantage, mask), strict=True
    ):
        ratio = math.exp(n - o)
        bounded = min(max(ratio, 1 - eps), 1 + eps)
        gain = min(ratio * a, bounded * a)
        if dual is not None and a < 0:
            gain = max(gain, dual * a)
        losses.append(-gain)
    return losses


def slope(loss: Callable[[float], float], x: float, step: float = 1e-6) -> float:
    """The derivative of a function of one number, from its two sides."""
    return (loss(x + step) - loss(x - step)) / (2 * step)


def value_loss(new: Row, old: Row, target: Row, mask: Mask, eps: float) -> list[float]:
    losses = []
    for n, o, r in zip(actions(new, mask), actions(old, mask), actions(target, mask), strict=True):
        near = min(max(n, o - eps), o + eps)
        losses.append(0.5 * max((n - r) ** 2, (near - r) ** 2))
    return losses
