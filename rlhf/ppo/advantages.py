"""How much better a token was than expected.

`gae` asks a value model what was to be expected. `group_advantages` asks the other responses to the
same prompt, and gives every token of a response the same number.

An episode is the sequence of a response's *action* tokens. Text that the policy did not write (a
retrieved passage or a tool's output inside a response) takes no step of the process: it is
skipped, and the value and the advantage of the next action token carry over the gap, however long
it is. A response that was cut by the length limit ends like any other, with value 0 after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from plumbrule.rounding import is_rounding, precision_of
from rlhf.masked import fill, row_sums, whiten


class AdvantageInputs(NamedTuple):
    """What an advantage may be made of: b responses over t positions."""

    rewards: Tensor
    """(b, t), of each step."""
    values: Tensor
    """(b, t), of the state before each step; 0 without a value model."""
    action_mask: Tensor
    """(b, t) bool, True = the policy sampled this token."""
    step_mask: Tensor
    """(b, t) bool, the action tokens and perhaps a step behind them."""
    group_size: int
    """Responses to one prompt, which stand one behind the other."""
    gamma: float
    lam: float
    lam_value: float | None = None
    """Lambda of the returns; None: lam."""
    lam_alpha: float | None = None
    """Of a lambda that grows with the response (`length_adaptive_lam`); None: lam."""


class Advantages(NamedTuple):
    """Both (b, t), 0 at padding."""

    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor, values: Tensor, action_mask: Tensor, gamma: float, lam: float | Tensor
) -> Advantages:
    """Return generalised advantages and returns (advantage + value), both (b, t) like `values`.

    Eqs. 11-16 of Schulman et al. 2016 (arXiv:1506.02438) over action tokens; the value after the
    last one is 0. Not whitened: whiten the advantages over the whole rollout afterwards. The
    returns are made here so that whitening can't reach them.

    Args: rewards, values: (b, t); values[i, j] is that of the state before token j. action_mask:
    (b, t) bool, the positions that are steps; others may hold anything. gamma: discount per step.
    lam: lambda in [0, 1], or one for each row, (b,).
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
    for position in reversed(range(values.shape[1])):
        acts = action_mask[:, position]
        delta = rewards[:, position] + gamma * next_value - values[:, position]
        advantage = delta + gamma * lam * next_advantage
        next_advantage = torch.where(acts, advantage, next_advantage)
        next_value = torch.where(acts, values[:, position], next_value)
        advantages[:, position] = torch.where(acts, advantage, 0.0)
    return Advantages(advantages, torch.where(action_mask, advantages + values, 0.0))


GROUP_FLOOR = 1e-4
"""Added to a group's standard deviation in `grpo`, so that returns which hardly differ do not give
advantages as large as those that do. Ours, as in TRL; the paper divides by the deviation alone."""


def group_advantages(
    returns: Tensor, group_size: int, kind: str, precision: str | None = None
) -> Tensor:
    """Return one advantage per response, (b,) like `returns`, from the others to its prompt.

    - rloo: R_i less the mean of the *other* returns, the leave-one-out baseline (Kool et al. 2019;
      Ahmadian et al. 2024, arXiv:2402.14740, eq. 8).
    - grpo: (R_i less the mean) over the standard deviation, of all in the group (Shao et al. 2024,
      arXiv:2402.03300, section 4.1.2).
    - reinforce_baseline: R_i less the mean; the caller whitens over the rollout (Hu et al. 2025,
      arXiv:2501.03262, section 3).

    A group whose returns differ by rounding alone (`plumbrule/rounding.py`) gives 0 in each.

    Args: returns: (b,), rows of one prompt one behind the other. group_size: rows per prompt.
    precision: in which the returns were computed, such as float32; None: that of their dtype.
    Raises: ValueError: b is no multiple of `group_size`, or `group_size` is below 2.
    """
    if group_size < 2 or len(returns) % group_size:
        raise ValueError(
            f"returns (={len(returns)} rows) must be whole groups of group_size (={group_size}) "
            "rows, at least 2."
        )
    groups = returns.view(-1, group_size)
    alike = alike_groups(returns, group_size, precision)[:, None]
    centred = groups - groups.mean(dim=1, keepdim=True)
    centred = torch.where(alike, torch.zeros_like(centred), centred)
    if kind == "rloo":  # R_i - (S - R_i) / (k - 1) = (R_i - S / k) k / (k - 1)
        centred = centred * (group_size / (group_size - 1))
    elif kind == "grpo":
        centred = centred / (groups.std(dim=1, keepdim=True) + GROUP_FLOOR)
    elif kind != "reinforce_baseline":
        raise ValueError(f"kind (={kind!r}) must be rloo, grpo or reinforce_baseline.")
    return centred.reshape(-1)


def alike_groups(returns: Tensor, group_size: int, precision: str | None = None) -> Tensor:
    """Return whether each group's numbers differ by rounding alone, (groups,) bool.

    Args: as in `group_advantages`.
    """
    groups = returns.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    spread, largest = centred.square().mean(1).sqrt(), groups.abs().amax(1)
    return is_rounding(spread, largest, precision or precision_of(returns.dtype))


def length_adaptive_lam(step_mask: Tensor, alpha: float) -> Tensor:
    """Return 1 - 1 / (alpha * steps) of each row, not below 0, (b,) float64.

    So the weights lambda^k of a response's TD errors sum to about alpha times its length, whatever
    that is (VAPO, Yue et al. 2025, arXiv:2504.05118, section 4.2, with alpha = 0.05).
    """
    return (1.0 - 1.0 / (alpha * step_mask.sum(dim=1).double())).clamp(min=0.0)


def from_values(given: AdvantageInputs) -> Advantages:
    """Generalised advantages from a value model; `objective.advantages_of` whitens them.

    The returns may have a lambda of their own (decoupled GAE, Yuan et al. 2025, arXiv:2503.01491,
    section 3.2): with 1 the value model learns from what was paid and not from its own estimates.
    """
    rewards, values, steps, gamma = given.rewards, given.values, given.step_mask, given.gamma
    lam: float | Tensor = given.lam
    if given.lam_alpha is not None:
        lam = length_adaptive_lam(steps, given.lam_alpha).to(values.dtype)
    advantages, returns = gae(rewards, values, steps, gamma, lam)
    if given.lam_value is not None or given.lam_alpha is not None:
        lam_value = given.lam if given.lam_value is None else given.lam_value
        returns = gae(rewards, values, steps, gamma, lam_value).returns
    return Advantages(advantages, returns)


def rloo(given: AdvantageInputs) -> Advantages:
    """A response's return less the mean of the others to its prompt."""
    return _of_groups(given, "rloo")


def grpo(given: AdvantageInputs) -> Advantages:
    """A response's return less its group's mean, by the group's deviation."""
    return _of_groups(given, "grpo")


def reinforce_baseline(given: AdvantageInputs) -> Advantages:
    """A response's return less its group's mean, then whitened over the rollout."""
    advantages, returns = _of_groups(given, "reinforce_baseline")
    return Advantages(whiten(advantages, given.action_mask), returns)


def no_advantages(given: AdvantageInputs) -> Advantages:
    """0 at every token, whatever the rewards are: a teacher alone says what is better."""
    return Advantages(torch.zeros_like(given.rewards), torch.zeros_like(given.rewards))


def _of_groups(given: AdvantageInputs, kind: str) -> Advantages:
    """Return one number per response at each of its action tokens, and no returns."""
    rewards, mask = given.rewards, given.action_mask
    totals = row_sums(rewards, mask)
    each = group_advantages(totals, given.group_size, kind, precision_of(rewards.dtype))
    advantages = fill(each.to(rewards.dtype)[:, None].expand_as(rewards), mask)
    return Advantages(advantages, torch.zeros_like(advantages))
