"""Steps 3 and 4 of an update: from responses, scores and model outputs to loss inputs.

A pure function of the rollout's raw columns and the settings, so that a rollout kept on disk can be
shaped again under other settings (`replay.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from rlhf.masked import fill, whiten
from rlhf.ppo.advantages import AdvantageInputs, Advantages
from rlhf.ppo.kl import estimate, k1
from rlhf.ppo.optimisation.distillation import distillation_advantages
from rlhf.ppo.options import ADVANTAGES
from rlhf.ppo.rollout.evaluation import Evaluation
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.trajectory import Trajectory
from rlhf.ppo.update_settings import ShapingSettings
from rlhf.rewards.transforms import (
    clip_scores,
    penalise_overlong,
    penalise_unfinished,
    reward_of,
    shape_rewards,
)


class Scores(NamedTuple):
    """Both (b,) float64."""

    raw: Tensor
    """The weighted sum of the terms."""
    final: Tensor
    """After every transform, as it enters the rewards and so the advantage."""


def scores_of(
    trajectory: Trajectory, terms: Mapping[str, Tensor], settings: ShapingSettings
) -> Scores:
    """Return the scores of a trajectory's responses. Args: terms: each reward term, (b,)."""
    raw = reward_of(terms, settings.reward)
    clipped = clip_scores(raw, settings.score_clip)
    scores = penalise_unfinished(clipped, trajectory.finished, settings.missing_eos_penalty)
    scores = penalise_overlong(
        scores,
        trajectory.action_mask.sum(dim=1),
        settings.limit_tokens,
        settings.overlong_buffer,
        settings.overlong_penalty,
    )
    return Scores(raw, scores)


def shape(
    trajectory: Trajectory,
    outputs: Evaluation,
    terms: Mapping[str, Tensor],
    settings: ShapingSettings,
) -> Rollout:
    """Return the rollout with its scores, rewards, advantages and returns.

    Args: outputs: the models' log-probs, values and entropies. terms: each reward term, (b,).
    """
    mask, steps = trajectory.action_mask, trajectory.step_mask
    old = outputs.logprobs
    if settings.old_logprobs == "rollout":
        old = trajectory.rollout_logprobs.to(old.dtype)

    # 3 Shape.
    raw_scores, scores = scores_of(trajectory, terms, settings)
    penalties = settings.kl_coef * estimate(old, outputs.ref_logprobs, mask, settings.kl_estimator)
    rewards = shape_rewards(scores, penalties, mask, steps)
    if settings.whiten_rewards:
        rewards = whiten(rewards, steps, shift_mean=False)

    # 4 Advantages. The returns are made before whitening and never see it.
    advantages, returns = advantages_of(
        rewards,
        outputs.values,
        mask,
        steps,
        advantage=settings.advantage,
        group_size=settings.samples_per_prompt,
        gamma=settings.gamma,
        lam=settings.lam,
        lam_value=settings.lam_value,
        lam_alpha=settings.lam_alpha,
        whiten_advantages=settings.whiten_advantages,
    )
    if settings.distill_coef and outputs.teacher_logprobs is not None:
        advantages = advantages + distillation_advantages(
            old, outputs.teacher_logprobs, mask, settings.distill_coef
        )
    return Rollout(
        trajectory=trajectory,
        **{**outputs._asdict(), "logprobs": old},
        kl=k1(old, outputs.ref_logprobs, mask),
        penalties=penalties,
        terms=terms,
        raw_scores=raw_scores,
        scores=scores,
        rewards=rewards,
        advantages=advantages,
        returns=returns,
    )


def advantages_of(
    rewards: Tensor,
    values: Tensor,
    action_mask: Tensor,
    step_mask: Tensor,
    *,
    advantage: str = "gae",
    group_size: int = 1,
    gamma: float = 1.0,
    lam: float = 1.0,
    lam_value: float | None = None,
    lam_alpha: float | None = None,
    whiten_advantages: bool = True,
) -> Advantages:
    """Return advantages at action tokens as they enter the loss, and returns at steps, (b, t).

    Args: rewards to lam_alpha: as in `AdvantageInputs`, but for advantage: a name in
    `ADVANTAGES`. whiten_advantages: over the rollout, where the advantage reads values.
    """
    mask = action_mask
    given = AdvantageInputs(
        rewards, values, mask, step_mask, group_size, gamma, lam, lam_value, lam_alpha
    )
    advantages, returns = ADVANTAGES[advantage](given)
    if whiten_advantages and "values" in ADVANTAGES.option(advantage).traits:
        advantages = whiten(advantages, mask)
    return Advantages(fill(advantages, mask), returns)
