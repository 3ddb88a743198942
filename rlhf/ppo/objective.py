"""Steps 3 and 4 of an update: from what was said, scored and read to what the losses need.

A pure function of the rollout's raw columns and the settings, so that a rollout kept on disk can be
shaped again under other settings (`replay.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rlhf.masked import fill, whiten
from rlhf.ppo.advantages import AdvantageInputs, Advantages
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.kl import estimate, k1
from rlhf.ppo.options import ADVANTAGES
from rlhf.ppo.rollout.evaluation import Evaluation
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.trajectory import Trajectory
from rlhf.rewards.transforms import (
    clip_scores,
    penalise_unfinished,
    reward_of,
    shape_rewards,
)


def shape(
    trajectory: Trajectory,
    seen: Evaluation,
    terms: Mapping[str, Tensor],
    config: PPOConfig,
    kl_coef: float,
) -> Rollout:
    """Return the rollout with its scores, rewards, advantages and returns.

    Args: seen: what the models say of the tokens. terms: each reward term, (b,). kl_coef: of the KL
    penalty, wherever it goes.
    """
    mask, steps = trajectory.action_mask, trajectory.step_mask
    old = seen.logprobs
    if config.old_logprobs == "rollout":
        old = trajectory.rollout_logprobs.to(old.dtype)

    # 3 Shape.
    raw_scores = reward_of(terms, config.reward)
    scores = penalise_unfinished(
        clip_scores(raw_scores, config.score_clip), trajectory.finished, config.missing_eos_penalty
    )
    in_reward = kl_coef if config.kl.where == "reward" else 0.0
    penalties = in_reward * estimate(old, seen.ref_logprobs, mask, config.kl.estimator)
    rewards = shape_rewards(scores, penalties, mask, steps)
    if config.whiten_rewards:
        rewards = whiten(rewards, steps, shift_mean=False)

    # 4 Advantages. The returns are made before whitening and never see it.
    advantages, returns = advantages_of(rewards, seen.values, trajectory, config)
    return Rollout(
        trajectory=trajectory,
        **{**seen._asdict(), "logprobs": old},
        kl=k1(old, seen.ref_logprobs, mask),
        penalties=penalties,
        terms=terms,
        raw_scores=raw_scores,
        scores=scores,
        rewards=rewards,
        advantages=advantages,
        returns=returns,
    )


def kl_coef_in_loss(config: PPOConfig, kl_coef: float) -> float:
    """Return the weight of the KL in the policy loss: all of it or nothing."""
    return kl_coef if config.kl.where == "loss" else 0.0


def advantages_of(
    rewards: Tensor, values: Tensor, trajectory: Trajectory, config: PPOConfig
) -> Advantages:
    """Return advantages at action tokens as they enter the loss, and returns at steps, (b, t).

    Those of an advantage that reads values are whitened over the rollout (`whiten_advantages`).
    """
    mask, steps = trajectory.action_mask, trajectory.step_mask
    group_size = config.samples_per_prompt
    given = AdvantageInputs(rewards, values, mask, steps, group_size, config.gamma, config.lam)
    advantages, returns = ADVANTAGES[config.advantage](given)
    if config.has_value_model and config.whiten_advantages:
        advantages = whiten(advantages, mask)
    return Advantages(fill(advantages, mask), returns)
