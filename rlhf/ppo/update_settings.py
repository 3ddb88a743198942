"""What the steps of an update read of the config, as plain values that a notebook can make.

    draw_settings      batches.draw_batch from prompts to responses and their terms
    shaping_settings   objective.shape    from scores and log-probs to advantages and returns
    loss_settings      step.ppo_step      from a mini-batch to its loss
    step_settings      step.ppo_step      from a rollout to optimizer steps

Nothing here has a default: those stand in `PPOConfig`. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

from plumbrule.lm.config import SamplingConfig
from rlhf.ppo.config import PPOConfig
from rlhf.rewards.config import RewardConfig


@dataclass(frozen=True)
class ShapingSettings:
    """From scores to rewards, and from rewards to advantages and returns."""

    old_logprobs: str
    """recompute or rollout, as `ppo.old_logprobs`."""
    reward: RewardConfig
    """The weights and transforms of the terms."""
    score_clip: float | None
    missing_eos_penalty: float
    kl_estimator: str
    kl_coef: float
    """Subtracted from each token's reward, per nat; 0 where the KL is part of the loss."""
    whiten_rewards: bool
    advantage: str
    """A name in `options.ADVANTAGES`."""
    samples_per_prompt: int
    """Responses to one prompt, which stand one behind the other."""
    gamma: float
    lam: float
    lam_value: float | None
    lam_alpha: float | None
    whiten_advantages: bool
    overlong_buffer: int
    overlong_penalty: float
    limit_tokens: int
    """Longest response that may be sampled."""
    distill_coef: float
    """Added to a token's advantage per nat of the teacher's log-ratio to the policy."""


@dataclass(frozen=True)
class DrawSettings:
    """From an update's prompts to responses and what the reward gives them."""

    seed: int
    sampling: SamplingConfig
    precision: str
    score_at: str
    """last or after, as `ppo.score_at`."""
    samples_per_prompt: int
    max_draws: int
    """1: whatever is drawn first is the batch."""
    shaping: ShapingSettings
    """What scores are made by, which decide what stays in the batch."""


@dataclass(frozen=True)
class PPOLossSettings:
    """From a mini-batch of a rollout to its loss."""

    temperature: float
    """At which the tokens were sampled; log-probs are taken at it."""
    precision: str
    policy_loss: str
    """A name in `options.POLICY_LOSSES`."""
    cliprange: float
    cliprange_high: float | None
    dual_clip: float | None
    loss_aggregation: str
    limit_tokens: int
    """Longest response that may be sampled."""
    mask_unfinished: bool
    importance_cap: float | None
    importance_floor: float
    importance_level: str
    importance_outside: str
    entropy_coef: float
    """Weight of the entropy bonus in this update, per nat."""
    kl_estimator: str
    kl_coef: float
    """Weight of the KL in the loss, per nat; 0 where it is part of the reward."""
    cliprange_value: float
    vf_coef: float


@dataclass(frozen=True)
class StepSettings:
    """From a rollout to `num_ppo_epochs * num_mini_batches` optimizer steps."""

    seed: int
    """Of the order of rows, and of the demonstrations of PPO-ptx."""
    num_ppo_epochs: int
    num_mini_batches: int
    max_grad_norm: float
    step_kl: float | None
    """Nats per token of a mini-batch above which the rest of the update is left out."""
    value_warmup_updates: int
    """First updates of the run, which train the value model alone."""


def shaping_settings(config: PPOConfig, kl_coef: float) -> ShapingSettings:
    """Return what `shape` reads. Args: kl_coef: of the KL in the reward (`kl_weights`)."""
    return ShapingSettings(
        old_logprobs=config.old_logprobs,
        reward=config.reward,
        score_clip=config.score_clip,
        missing_eos_penalty=config.missing_eos_penalty,
        kl_estimator=config.kl.estimator,
        kl_coef=kl_coef,
        whiten_rewards=config.whiten_rewards,
        advantage=config.advantage,
        samples_per_prompt=config.samples_per_prompt,
        gamma=config.gamma,
        lam=config.lam,
        lam_value=config.lam_value,
        lam_alpha=config.lam_alpha,
        overlong_buffer=config.overlong_buffer,
        overlong_penalty=config.overlong_penalty,
        limit_tokens=config.sampling.max_new_tokens,
        whiten_advantages=config.whiten_advantages,
        distill_coef=config.distill.coef,
    )


def draw_settings(config: PPOConfig) -> DrawSettings:
    """Return what `draw_batch` reads."""
    return DrawSettings(
        seed=config.seed,
        sampling=config.sampling,
        precision=config.precision,
        score_at=config.score_at,
        samples_per_prompt=config.samples_per_prompt,
        max_draws=config.dynamic_sampling_max_draws,
        shaping=shaping_settings(config, 0.0),
    )


def loss_settings(
    config: PPOConfig, kl_coef: float, entropy_coef: float | None = None
) -> PPOLossSettings:
    """Return what a mini-batch's loss reads.

    Args: kl_coef: of the KL in it (`kl_weights`). entropy_coef: of the entropy bonus; None: as
    configured.
    """
    return PPOLossSettings(
        temperature=config.sampling.temperature,
        precision=config.precision,
        policy_loss=config.policy_loss,
        cliprange=config.cliprange,
        cliprange_high=config.cliprange_high,
        dual_clip=config.dual_clip,
        loss_aggregation=config.loss_aggregation,
        limit_tokens=config.sampling.max_new_tokens,
        mask_unfinished=config.mask_unfinished,
        importance_cap=config.importance_cap,
        importance_floor=config.importance_floor,
        importance_level=config.importance_level,
        importance_outside=config.importance_outside,
        entropy_coef=config.entropy.coef if entropy_coef is None else entropy_coef,
        kl_estimator=config.kl.estimator,
        kl_coef=kl_coef,
        cliprange_value=config.cliprange_value,
        vf_coef=config.vf_coef,
    )


def step_settings(config: PPOConfig) -> StepSettings:
    """Return what the loop over optimizer steps reads."""
    return StepSettings(
        seed=config.seed,
        num_ppo_epochs=config.num_ppo_epochs,
        num_mini_batches=config.num_mini_batches,
        max_grad_norm=config.max_grad_norm,
        step_kl=config.early_stop.step_kl,
        value_warmup_updates=config.value_warmup_updates,
    )
