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


def distillation(new: Row, teacher: Row, mask: Mask, coef: float) -> Row:
    """What a teacher adds to each action token's advantage (arXiv:2306.13649, reverse KL)."""
    return [coef * (t - p) if m else 0.0 for p, t, m in zip(new, teacher, mask, strict=True)]


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
    """One number per action token: `surrogate` of its ratio."""
    rows = (actions(row, mask) for row in (new, old, advantage))
    return [surrogate(math.exp(n - o), a, eps, eps, dual) for n, o, a in zip(*rows, strict=True)]


def surrogate(ratio: float, a: float, low: float, high: float, dual: float | None = None) -> float:
    """Schulman et al. 2017, eq. 7, negated; low and high as in DAPO (Yu et al. 2025), eq. 10.

    Dual clip, Ye et al. 2020, eq. 5: max(min(r A, clip(r) A), c A) where A < 0, before the sign.
    """
    gain = min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
    if dual is not None and a < 0:
        gain = max(gain, dual * a)
    return -gain


def token_loss(kind: str, n: float, new: Row, old: Row, j: int, a: float, **clip: float) -> float:
    """The loss of token j of a response (action tokens alone) were its log-prob n.

    gspo: GSPO-token (Zheng et al. 2025, eqs. 13 and 14): sg(s) pi / sg(pi), s the response's ratio.
    cispo: MiniMax 2025, eqs. 4 and 5: the clipped ratio does not move with n.
    """
    low, high, dual = clip["low"], clip["high"], clip.get("dual")
    if kind == "cispo":
        ratio = math.exp(new[j] - old[j])
        return -a * min(max(ratio, 1 - low), 1 + high) * n
    if kind == "gspo":
        s = math.exp(sum(x - y for x, y in zip(new, old, strict=True)) / len(new))
        return surrogate(s * math.exp(n - new[j]), a, low, high, dual)
    return surrogate(math.exp(n - old[j]), a, low, high, dual)


def importance(gaps: Row, j: int, level: str, floor: float, cap: float, outside: str) -> float:
    """The weight of token j; gaps: log pi - log mu of a response's action tokens."""
    ratio = math.exp(
        {"token": gaps[j], "sequence": sum(gaps), "geometric": sum(gaps) / len(gaps)}[level]
    )
    if floor <= ratio <= cap:
        return ratio
    return 0.0 if outside == "mask" else min(max(ratio, floor), cap)


def token_weights(lengths: list[int], kept: Mask, kind: str, limit: int) -> Row:
    """What the loss of a token of each row is multiplied by on its way to the mini-batch's loss.

    token: DAPO; sequence: GRPO (Shao et al. 2024, eq. 3); constant: Dr. GRPO (Liu et al. 2025).
    """
    tokens = sum(n for n, k in zip(lengths, kept, strict=True) if k)
    each = {
        "token": lambda n: 1 / tokens,
        "sequence": lambda n: 1 / n / sum(kept),
        "constant": lambda n: 1 / (limit * len(lengths)),
    }[kind]
    return [each(n) if k else 0.0 for n, k in zip(lengths, kept, strict=True)]


def slope(loss: Callable[[float], float], x: float, step: float = 1e-6) -> float:
    """The derivative of a function of one number, from its two sides."""
    return (loss(x + step) - loss(x - step)) / (2 * step)


def value_loss(new: Row, old: Row, target: Row, mask: Mask, eps: float) -> list[float]:
    losses = []
    for n, o, r in zip(actions(new, mask), actions(old, mask), actions(target, mask), strict=True):
        near = min(max(n, o - eps), o + eps)
        losses.append(0.5 * max((n - r) ** 2, (near - r) ** 2))
    return losses
