"""The numbers that are logged of a rollout and of an update; every mean is over action tokens.

objective/*   of the rollout, before the update. A reward is logged before and after each transform:
              `reward/<term>_raw` as the term gave it, where configured `reward/<term>_normalised`
              and `reward/<term>_clipped`, `reward/<term>` after its weight, `objective/scores_raw`
              their sum, `objective/scores` after the bound on scores and the missing-EOS penalty,
              `objective/non_score_reward` the KL penalty, `objective/rlhf_reward` all together.
policy/*, loss/*, val/*   over all optimizer steps of the update.

The consistency meter answers a question that decides whether a ratio means anything: do the sampler
and the training pass agree on the log-prob of the very tokens that were sampled? They differ by
rounding (in bfloat16 the ratio spreads by about 0.05), and by much more when something is wrong:
another temperature, padding that is attended to, positions that are off by one, stale weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from plumbrule.errors import TrainingError
from plumbrule.timing import Stopwatch
from rlhf.masked import fill, masked_mean, masked_var, row_sums, varies_by_rounding
from rlhf.ppo.kl import k1, num_cut
from rlhf.ppo.rollout.batches import Batch
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.step import PPOStats
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.transforms import prepare_terms

log = logging.getLogger(__name__)

SAMPLED = "ppo/episodes_sampled"
"""With dynamic sampling: responses so far, trained on or not."""
LARGEST_GAP = {"float32": 1e-3, "bfloat16": 0.5}
"""Largest plausible |rollout - training log-prob| of any token, nats, by precision."""

LARGEST_RETURN = 5.0
"""Largest root mean square of returns that values learn without a warning; a reward model's scores
make some near 1."""
BAND = (0.5, 2.0)
"""Ratios within which a token counts as sampled by the policy; rounding leaves none outside."""


class Consistency(NamedTuple):
    """How far the sampler's log-probs are from the training pass's, over action tokens, nats."""

    largest: float
    mean: float
    out_of_band: float = 0.0
    """Share of the tokens whose ratio, training over sampling probability, is outside `BAND`."""


def consistency(rollout_logprobs: Tensor, logprobs: Tensor, action_mask: Tensor) -> Consistency:
    """Return how far two (b, t) log-probs are apart."""
    log_ratio = fill(logprobs.double() - rollout_logprobs.double(), action_mask)
    gap, ratio = log_ratio.abs(), log_ratio.exp()
    out = ((ratio < BAND[0]) | (ratio > BAND[1])).double()
    means = (float(masked_mean(some, action_mask)) for some in (gap, out))
    return Consistency(float(gap.max()), *means)


def warn_if_inconsistent(gap: Consistency, precision: str, update: int) -> bool:
    """Log a warning with the likely cause where the gap is more than rounding; return whether."""
    bound = LARGEST_GAP[precision]
    if gap.largest <= bound:
        return False
    cause = (
        "most tokens differ: look for another temperature, padding that is attended to, positions, "
        "or weights that the sampler does not share"
        if gap.mean > 0.1 * bound
        else "few tokens differ: rounding in rare tokens, or rows that only some batches hold"
    )
    log.warning(
        "update %d: sampler and training pass differ by up to %.2g nats a token (mean %.2g), more "
        "than %s explains (%.2g); %s.",
        update,
        gap.largest,
        gap.mean,
        precision,
        bound,
        cause,
    )
    return True


def warn_of_large_returns(returns: Tensor, step_mask: Tensor, update: int) -> None:
    """Log a warning where returns (b, t) are so large that the value loss drowns the policy's.

    The value loss goes with their square, and gradients are clipped together where policy and
    values share a trunk.
    """
    size = float(masked_mean(fill(returns.double(), step_mask).square(), step_mask).sqrt())
    if size <= LARGEST_RETURN:
        return
    log.warning(
        "update %d: returns (=%.3g in root mean square) should be near 1 in size, as the scores of "
        "a reward model make them; the value loss goes with their square. Set normalise: batch or "
        "a smaller weight in reward.terms, or ppo.score_clip.",
        update,
        size,
    )


def objective_metrics(
    rollout: Rollout, reward: RewardConfig, estimator: str = "k1"
) -> dict[str, float]:
    """Return the `objective/*`, `reward/*` and rollout's `val/*` metrics of one rollout.

    Args: estimator: of the KL penalty.
    """
    trajectory, mask = rollout.trajectory, rollout.trajectory.action_mask
    taken = row_sums(rollout.penalties, mask).mean()
    metrics: dict[str, Tensor | float] = {
        "objective/kl": row_sums(rollout.kl, mask).mean(),
        "objective/kl_cut_tokens": num_cut(fill(rollout.kl, mask), estimator),
        "objective/entropy": masked_mean(rollout.entropy, mask),
        "objective/scores_raw": rollout.raw_scores.mean(),
        "objective/scores": rollout.scores.mean(),
        "objective/non_score_reward": -taken,
        "objective/rlhf_reward": rollout.scores.mean() - taken,
        "val/num_eos_tokens": trajectory.finished.sum(),
        "val/prompt_length_tokens": sum(map(len, trajectory.queries)) / len(trajectory),
        "val/response_length_tokens": mask.sum(dim=1).double().mean(),
        "val/explained_variance": explained_variance(
            rollout.values, rollout.returns, trajectory.step_mask
        ),
    }
    if rollout.teacher_logprobs is not None:
        gap = k1(rollout.logprobs, rollout.teacher_logprobs, mask)
        metrics["objective/teacher_kl"] = row_sums(gap, mask).mean()
    for name, term in rollout.terms.items():
        metrics[f"reward/{name}_raw"] = term.mean()
    prepared = prepare_terms(rollout.terms, reward.terms)
    for config in reward.terms:
        steps = prepared[config.name]
        if config.normalise != "none":
            metrics[f"reward/{config.name}_normalised"] = steps.normalised.mean()
        if config.clip is not None:
            metrics[f"reward/{config.name}_clipped"] = steps.clipped.mean()
        metrics[f"reward/{config.name}"] = config.weight * steps.clipped.mean()
    return {name: float(value) for name, value in metrics.items()}


def explained_variance(values: Tensor, returns: Tensor, step_mask: Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns) over the steps.

    0 where returns vary by rounding alone.

    Of the values before the update: 1 foresees every return, 0 is no better than their mean.
    """
    if bool(varies_by_rounding(returns, step_mask)):
        return 0.0
    total = float(masked_var(returns, step_mask))
    return 1.0 - float(masked_var(fill(returns - values, step_mask), step_mask)) / total


def update_metrics(stats: PPOStats) -> dict[str, float]:
    """Return the `policy/*`, `loss/*`, `val/*` and gradient metrics of one update."""
    return {
        "policy/approxkl_avg": stats.approxkl,
        "policy/clipfrac_avg": stats.clipfrac,
        "loss/policy_avg": stats.policy_loss,
        "policy/cut_ratios_avg": stats.cut_ratios,
        "policy/importance_outside_avg": stats.importance_outside,
        "loss/value_avg": stats.value_loss,
        "loss/kl_avg": stats.kl_loss,
        "loss/entropy_avg": stats.entropy,
        "loss/ptx_avg": stats.ptx_loss,
        "val/clipfrac_avg": stats.value_clipfrac,
        "val/ratio": stats.ratio,
        "val/ratio_var": stats.ratio_var,
        "val/first_ratio_error": stats.first_ratio_error,
        "objective/grad_norm": stats.grad_norm,
        "objective/value_grad_norm": stats.value_grad_norm,
        "ppo/optimizer_steps": float(stats.num_steps),
    }


def sampling_metrics(
    batch: Batch,
    unused: Batch | None,
    staleness: int | None,
    before: Mapping[str, float],
) -> dict[str, float]:
    """Return the `rollout/*` metrics of an update, {} where neither option that needs them is on.

    Args: unused: a batch that was drawn ahead and will not be trained on, as the run ends.
    staleness: updates by which the policy that sampled is older; None: the option is off. before:
    the metrics of the update before.
    """
    metrics: dict[str, float] = {}
    if staleness is not None:
        metrics["rollout/staleness_updates"] = float(staleness)
    if batch.draws is not None:
        size = batch.draws.group_size
        sampled = batch.draws.groups + (unused.draws.groups if unused and unused.draws else 0)
        metrics |= batch.draws.metrics(len(batch.trajectory) // size)
        metrics[SAMPLED] = before.get(SAMPLED, 0.0) + sampled * size
    if unused is not None:
        lost = unused.draws
        for part, number in zip(("prompt", "response"), unused.num_tokens, strict=True):
            name = f"{part}_tokens_left_out"
            more = number + (getattr(lost, name) if lost else 0)
            metrics[f"rollout/{name}"] = metrics.get(f"rollout/{name}", 0.0) + more
    return metrics


def require_finite(rollout: Rollout, update: int) -> None:
    """Raise TrainingError if a column of the rollout holds NaN or Inf at an action token."""
    trajectory = rollout.trajectory
    columns = {f"reward term {name}": term for name, term in rollout.terms.items()}
    for name in ("logprobs", "ref_logprobs", "advantages"):
        columns[name] = fill(getattr(rollout, name), trajectory.action_mask)
    for name in ("values", "rewards", "returns"):
        columns[name] = fill(getattr(rollout, name), trajectory.step_mask)
    for name, column in columns.items():
        bad = (~torch.isfinite(column)).nonzero()
        if len(bad):
            row = int(bad[0, 0])
            raise TrainingError(
                f"{name} of update {update} must be finite; the first NaN or Inf stands in row "
                f"{row}, prompt {trajectory.prompt_ids[row]}."
            )


def time_metrics(watch: Stopwatch, num_episodes: int) -> dict[str, float]:
    """Return `time/<part>_seconds` and `time/episodes_per_second`."""
    parts = {f"time/{part}_seconds": seconds for part, seconds in watch.seconds.items()}
    return {**parts, "time/episodes_per_second": num_episodes / watch.total()}
