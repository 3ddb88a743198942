"""One update of PPO: `num_ppo_epochs * num_mini_batches` optimizer steps over one rollout.

batch        the rollout's rows, the same in every process
mini-batch   batch_size / num_mini_batches rows, one optimizer step; cut anew in each epoch from an
             order that belongs to (seed, update, epoch)
micro-batch  rows of like length that go through the models together; a matter of memory only

A mini-batch's loss is the sum over its action tokens, divided by their number in the *whole*
mini-batch (the value loss: over its steps), or another sum (`optimisation/aggregation.py`). What it
is divided by is known before the first forward pass, since masks are data, so the gradient is one
and the same for every cut into micro-batches and every number of processes: each process adds up
its rows' gradients, and the sums are summed. (Means over micro-batches, as most code takes them,
weigh a token by the length of its neighbours.) Gradient accumulation is this loop and nothing else;
no wrapper decides when to step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plumbrule.errors import TrainingError
from plumbrule.lm.parallel import distributed, fsdp
from rlhf.ppo.kl import kl_loss
from rlhf.ppo.losses import PolicyLoss, ValueLoss, importance_weights, policy_loss, value_loss
from rlhf.ppo.optimisation.aggregation import loss_divisor, row_weights
from rlhf.ppo.optimisation.gradients import clip_gradients, reduce_gradients
from rlhf.ppo.optimisation.learner import Learner
from rlhf.ppo.optimisation.mini_batches import mini_batches
from rlhf.ppo.ptx import PTX, add_ptx_gradients
from rlhf.ppo.rollout.evaluation import (
    action_logprobs,
    action_scores,
    compute_precision,
    last_hidden,
    micro_batches,
    reads_policy,
    state_values,
)
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.trajectory import Trajectory, rows_for_model
from rlhf.ppo.update_settings import PPOLossSettings, StepSettings


class PPOStats(NamedTuple):
    """Means over the action tokens (of values: the steps) of all mini-batches; norms over steps.

    What an update did not train is 0, and the ratio 1.
    """

    policy_loss: float
    value_loss: float
    kl_loss: float
    """Of the KL in the loss, nats per token weighted by the ratio, before its coefficient."""
    entropy: float
    """Of the policy in training, nats per token; 0 where no bonus is given for it."""
    ptx_loss: float
    """Nats per response token of the demonstrations."""
    approxkl: float
    """Half the mean squared log-ratio, nats."""
    clipfrac: float
    value_clipfrac: float
    cut_ratios: float
    """Share of tokens whose log-ratio was beyond what is exponentiated."""
    importance_outside: float
    """Share of tokens whose importance weight was beyond a bound."""
    ratio: float
    ratio_var: float
    grad_norm: float
    """Of the policy, before clipping."""
    value_grad_norm: float
    first_ratio_error: float
    """Largest |ratio - 1| on the first mini-batch, before any step: 0 up to rounding."""
    num_steps: int
    """Optimizer steps taken."""


POLICY_SUMS = (
    "policy loss",
    "kl loss",
    "squared log-ratio",
    "clipped",
    "cut",
    "ratio - 1",
    "squared ratio - 1",
    "entropy",
    "importance outside",
)
"""What is summed over the action tokens of a mini-batch, in this order."""
VALUE_SUMS = ("value loss", "value clipped")
"""What is summed over its steps, in this order."""
SUMS = (*POLICY_SUMS, *VALUE_SUMS)
"""All of them, in one float64 tensor."""


def ppo_step(
    learner: Learner,
    rollout: Rollout,
    update: int,
    steps: StepSettings,
    loss: PPOLossSettings,
    micro_batch_size: int,
    ptx: PTX | None = None,
) -> PPOStats:
    """Train on a rollout what `update` (from 1) trains; return what happened.

    Args: ptx: demonstrations for PPO-ptx, None without.
    Raises: TrainingError: a loss or a gradient is NaN or Inf. The step is then not taken.
    """
    trajectory = rollout.trajectory
    models = learner.training(update, steps.value_warmup_updates)
    totals, divisors = (torch.zeros(len(SUMS), dtype=torch.float64) for _ in range(2))
    norms: list[dict[str, float]] = []
    ratio_errors, ptx_losses = [], []
    for where, rows in mini_batches(
        len(trajectory),
        update,
        seed=steps.seed,
        num_ppo_epochs=steps.num_ppo_epochs,
        num_mini_batches=steps.num_mini_batches,
    ):
        learner.optimizer.zero_grad(set_to_none=True)
        sums, error = add_gradients(
            learner, rollout, rows, loss, micro_batch_size, train_policy="policy" in models
        )
        ptx_sums = torch.zeros(2, dtype=torch.float64, device=sums.device)
        if ptx is not None and "policy" in models:
            ptx_sums = add_ptx_gradients(
                learner.policy,
                ptx,
                where,
                seed=steps.seed,
                precision=loss.precision,
                micro_batch_size=micro_batch_size,
            )
        reduce_gradients(models, [sums, ptx_sums])
        number = divisors_of(trajectory, rows)
        totals, divisors = totals + sums.cpu(), divisors + number
        ratio_errors.append(error)
        ptx_losses.append(float(ptx_sums[0] / ptx_sums[1].clamp(min=1)))
        approxkl = 0.5 * float(sums[SUMS.index("squared log-ratio")] / number[0])
        if steps.step_kl is not None and approxkl > steps.step_kl:
            break
        check_losses(sums, str(where))
        norms.append(clip_gradients(models, steps.max_grad_norm, str(where)))
        learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)  # their memory is the next rollout's
    fsdp.reshard(*learner.models.values())  # a policy that is only read has no backward pass
    mean = dict(zip(SUMS, (totals / divisors).tolist(), strict=True))
    norm = {name: sum(n[name] for n in norms) / max(1, len(norms)) for name in models}
    return PPOStats(
        policy_loss=mean["policy loss"],
        value_loss=mean["value loss"],
        kl_loss=mean["kl loss"],
        entropy=mean["entropy"],
        ptx_loss=sum(ptx_losses) / len(ptx_losses),
        approxkl=0.5 * mean["squared log-ratio"],
        clipfrac=mean["clipped"],
        value_clipfrac=mean["value clipped"],
        cut_ratios=mean["cut"],
        importance_outside=mean["importance outside"],
        ratio=1.0 + mean["ratio - 1"],
        ratio_var=mean["squared ratio - 1"] - mean["ratio - 1"] ** 2,
        grad_norm=norm.get("policy", 0.0),
        value_grad_norm=norm.get("value model", 0.0),
        first_ratio_error=max(distributed.gather_objects(ratio_errors[0])),
        num_steps=len(norms),
    )


def add_gradients(
    learner: Learner,
    rollout: Rollout,
    rows: Sequence[int],
    loss: PPOLossSettings,
    micro_batch_size: int,
    *,
    train_policy: bool = True,
) -> tuple[Tensor, float]:
    """Add the gradient of this process's rows to the parameters; return `SUMS` and max |ratio - 1|.

    The gradient is that of policy_loss + kl_coef * kl_loss - entropy_coef * entropy + vf_coef *
    value_loss, the first three aggregated over the action tokens of all `rows`, the last a mean
    over their steps. Without `train_policy` the value model's alone is added.
    """
    trajectory, device = rollout.trajectory, rollout.logprobs.device
    num_steps = float(divisors_of(trajectory, rows)[-1])
    num_actions = trajectory.action_mask.sum(dim=1)
    kept = trajectory.finished | (not loss.mask_unfinished)
    chosen = list(rows)
    divisor = loss_divisor(
        num_actions[chosen], kept[chosen], loss.loss_aggregation, loss.limit_tokens
    )
    lengths = trajectory.num_tokens
    by_length = sorted(rows, key=lambda i: -lengths[i])
    mine = [by_length[i] for i in distributed.rank_indices(len(by_length))]
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
    error = torch.zeros((), dtype=torch.float64, device=device)
    parts = micro_batches(trajectory, mine, micro_batch_size)
    for part, counts in fsdp.padded_micro_batches(
        learner.policy.model, parts, rows, micro_batch_size
    ):
        inputs = rows_for_model(trajectory, part, learner.policy.pad_id)
        width = inputs.columns.shape[1]
        old = Slice(*(getattr(rollout, name)[part, :width] for name in Slice._fields))
        hidden, losses = None, []
        if reads_policy(learner.value_model):
            with torch.set_grad_enabled(train_policy), compute_precision(loss.precision, device):
                hidden = last_hidden(learner.reader.model, inputs)
        if train_policy:
            mask, bonus = inputs.action_mask, torch.zeros_like(old.logprobs)
            with compute_precision(loss.precision, device):
                if loss.entropy_coef > 0:
                    new, bonus = action_scores(
                        learner.reader.model, inputs, loss.temperature, hidden, True
                    )
                else:
                    new = action_logprobs(learner.reader.model, inputs, loss.temperature, hidden)
            pg = policy_loss(
                new,
                old.logprobs,
                old.advantages,
                mask,
                loss.cliprange,
                loss.dual_clip,
                loss.policy_loss,
                loss.cliprange_high,
            )
            kl = kl_loss(new, old.ref_logprobs, mask, loss.kl_estimator, pg.ratio)
            outside = torch.zeros_like(mask)
            if loss.importance_cap is not None:
                weights, outside = importance_weights(
                    old.logprobs,
                    trajectory.rollout_logprobs[part, :width],
                    mask,
                    loss.importance_cap,
                    loss.importance_floor,
                    loss.importance_level,
                    loss.importance_outside,
                )
                pg, kl = pg._replace(loss=weights * pg.loss), weights * kl
            by_row = row_weights(num_actions[part], kept[part], loss.loss_aggregation)
            by_row = by_row.to(pg.loss.dtype)[:, None]
            total = (by_row * pg.loss).sum() + loss.kl_coef * (by_row * kl).sum()
            if loss.entropy_coef > 0:
                total = total - loss.entropy_coef * (by_row * bonus).sum()
            losses.append(counts * total / divisor)
            if hidden is None:
                losses.pop().backward()  # frees its activations before the value model's are made
            sums[: len(POLICY_SUMS)] += counts * policy_sums(pg, kl, bonus, outside)
            error = torch.maximum(error, (pg.ratio.double() - 1.0).abs().max())
        if learner.value_model is not None:
            with compute_precision(loss.precision, device):
                values = state_values(learner.value_model, inputs, hidden)
            vf = value_loss(values, old.values, old.returns, inputs.step_mask, loss.cliprange_value)
            losses.append(counts * loss.vf_coef * vf.loss.sum() / num_steps)
            sums[len(POLICY_SUMS) :] += counts * value_sums(vf)
        if losses:
            torch.stack(losses).sum().backward()
    return sums, float(error)


class Slice(NamedTuple):
    """What the losses read of a rollout, a few rows of it, (n, t)."""

    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def divisors_of(trajectory: Trajectory, rows: Sequence[int]) -> Tensor:
    """Return what each of `SUMS` is divided by for a mean over `rows`, float64."""
    chosen = list(rows)
    num_tokens = float(trajectory.action_mask[chosen].sum())
    num_steps = float(trajectory.step_mask[chosen].sum())
    counts = [num_tokens] * len(POLICY_SUMS) + [num_steps] * len(VALUE_SUMS)
    return torch.tensor(counts, dtype=torch.float64)


def policy_sums(policy: PolicyLoss, kl: Tensor, entropy: Tensor, outside: Tensor) -> Tensor:
    """Return `POLICY_SUMS` of a micro-batch, float64; padding adds nothing to any of them."""
    columns = (
        policy.loss.detach(),
        kl.detach(),
        policy.log_ratio.square(),
        policy.clipped,
        policy.cut,
        policy.ratio - 1.0,
        (policy.ratio - 1.0).square(),
        entropy.detach(),
        outside,
    )
    return torch.stack([column.double().sum() for column in columns])


def value_sums(value: ValueLoss) -> Tensor:
    """Return `VALUE_SUMS` of a micro-batch, float64; padding adds nothing to either."""
    return torch.stack([value.loss.detach().double().sum(), value.clipped.double().sum()])


def check_losses(sums: Tensor, where: str) -> None:
    """Raise TrainingError at the first loss among `SUMS` that is NaN or Inf."""
    for name, total in zip(SUMS, sums.tolist(), strict=True):
        if name.endswith("loss") and not math.isfinite(total):
            raise TrainingError(f"{name} at {where} (={total}) must be finite.")
