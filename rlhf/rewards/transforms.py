"""From scores of whole responses to a reward per token.

The order is fixed, since each step changes what the next one sees:

1. `prepare_terms`        (optional) each term normalised over the rollout, then cut to +- its bound
2. `weighted_sum`         reward terms (b,) each -> raw scores (b,)
3. `clip_scores`          (optional) cut to +- a bound; never the KL
4. `penalise_unfinished`  a response that never gave its terminal token loses a constant, once
5. `penalise_overlong`    (optional) a response near the length limit loses up to a constant
6. `shape_rewards`        less the KL penalty at each action token, and the score at the last step
7. `whiten` (optional)    unit variance over the steps of the rollout; the mean stays

The score lands on the last action token itself, which is the terminal token where there is one.
With `score_at=after` it comes one step later, for the state behind that token, as in TRL and in the
code of Huang et al. 2024 (arXiv:2403.17031). That state then has a value of its own, and with
lambda < 1 the score is discounted once more on its way to the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plumbrule.rounding import is_rounding, precision_of
from rlhf.masked import fill
from rlhf.rewards.config import RewardConfig, RewardTermConfig


class Prepared(NamedTuple):
    """One term on its way to the sum, (b,) each."""

    normalised: Tensor
    clipped: Tensor


def prepare_terms(
    terms: Mapping[str, Tensor], config: Sequence[RewardTermConfig]
) -> dict[str, Prepared]:
    """Return each configured term after normalisation and after clipping, (b,) float64.

    Terms come in float64, but models computed theirs in float32, or in less.
    Raises: ValueError: a configured term is missing.
    """
    prepared = {}
    for term in config:
        if term.name not in terms:
            raise ValueError(f"terms (={sorted(terms)}) must hold {term.name}.")
        raw = terms[term.name]
        normalised = standardise(raw, "float32") if term.normalise == "batch" else raw
        prepared[term.name] = Prepared(normalised, clip_scores(normalised, term.clip))
    return prepared


def reward_of(terms: Mapping[str, Tensor], reward: RewardConfig) -> Tensor:
    """Return raw scores (b,): the configured terms, prepared, times their weights, summed."""
    prepared = prepare_terms(terms, reward.terms)
    return weighted_sum({name: t.clipped for name, t in prepared.items()}, reward.weights)


def standardise(values: Tensor, precision: str | None = None) -> Tensor:
    """Return values (b,) less their mean, by their standard deviation, like `values`.

    0 where they differ by rounding alone (`plumbrule/rounding.py`), so of one value too.

    Args: precision: in which the values were computed; None: that of their dtype.
    """
    exact = values.double()
    spread, off = exact.std(correction=0), exact - exact.mean()
    alike = is_rounding(spread, exact.abs().max(), precision or precision_of(values.dtype))
    return torch.where(alike, torch.zeros_like(off), off / spread).to(values.dtype)


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return sum_k weights[k] * terms[k], (b,) of the terms' dtype; other terms do not count.

    Raises: ValueError: a weight without its term, or no weight at all.
    """
    if not weights or set(weights) - set(terms):
        raise ValueError(f"terms (={sorted(terms)}) must hold all weights (={sorted(weights)}).")
    return torch.stack([weight * terms[name] for name, weight in sorted(weights.items())]).sum(0)


def clip_scores(scores: Tensor, bound: float | None) -> Tensor:
    """Return scores (b,) cut to [-bound, bound]; None: as they are."""
    return scores if bound is None else scores.clamp(-bound, bound)


def penalise_unfinished(scores: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """Return scores (b,), less `penalty` where `finished` (b,) bool is False.

    `finished` is the sampler's word that the stop token *in use* was sampled; it is not searched
    for in the ids, where it could be missed (another stop token) or found twice.
    """
    return torch.where(finished, scores, scores - penalty)


def penalise_overlong(
    scores: Tensor, num_tokens: Tensor, limit_tokens: int, buffer_tokens: int, penalty: float
) -> Tensor:
    """Return scores (b,), less penalty * (tokens within the buffer) / buffer_tokens.

    The soft punishment of Yu et al. 2025 (DAPO, arXiv:2503.14476, eq. 13): nothing up to
    limit - buffer tokens, then linear, all of it at the limit. Without a buffer scores stay.

    Args: num_tokens: (b,) int64, action tokens of each response.
    """
    if not buffer_tokens:
        return scores
    within = (num_tokens - (limit_tokens - buffer_tokens)).clamp(0, buffer_tokens)
    return scores - penalty * within.to(scores.dtype) / buffer_tokens


def last_step(step_mask: Tensor) -> Tensor:
    """Return the position of the last step of each row, (b,) int64.

    Raises: ValueError: a row of `step_mask` holds no True.
    """
    if not bool(step_mask.any(dim=1).all()):
        raise ValueError("step_mask must hold a step in every row; drop empty responses.")
    positions = torch.arange(step_mask.shape[1], device=step_mask.device)
    return torch.where(step_mask, positions, -1).max(dim=1).values


def shape_rewards(
    scores: Tensor, penalties: Tensor, action_mask: Tensor, step_mask: Tensor
) -> Tensor:
    """Return rewards (b, t): -penalties at action tokens, plus the score at the last step.

    Eq. 2 of Stiennon et al. 2020 (arXiv:2009.01325), token by token; 0 elsewhere.

    Args: scores: (b,). penalties: (b, t), coefficient times KL. action_mask: (b, t) bool.
    step_mask: (b, t) bool, the action tokens and perhaps, behind them, a step for the score.
    Raises: ValueError: a row holds no step.
    """
    last = last_step(step_mask)[:, None]
    rewards = fill(-penalties, action_mask)
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))
