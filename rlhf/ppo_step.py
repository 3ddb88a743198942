"""One update of PPO: `num_ppo_epochs * num_mini_batches` optimizer steps over one rollout.

batch        the rollout's rows, the same in every process
mini-batch   batch_size / num_mini_batches rows, one optimizer step; cut anew in each epoch from an
             order that belongs to (seed, update, epoch)
micro-batch  rows of like length that go through the models together; a matter of memory only

A mini-batch's loss is the sum over its action tokens, divided by their number in the *whole*
mini-batch. That divisor is known before the first forward pass, since masks are data, so the
gradient is one and the same for every cut into micro-batches and every number of processes: each
process adds up its rows' gradients, and the sums are summed. (Means over micro-batches, as most
code takes them, weigh a token by the length of its neighbours.) Gradient accumulation is this loop
and nothing else; no wrapper decides when to step.

Policy and value model are separate models under one Adam with a group each (its moments are per
parameter, so this is two optimizers in one state). Their gradients are clipped apart: under one
common norm a value model that starts badly would shrink the policy's steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from plumbrule import distributed
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.models import Policy
from plumbrule.randomness import generator
from rlhf.config import PPOConfig
from rlhf.forward import action_logprobs, compute_precision, micro_batches, state_values
from rlhf.losses import PolicyLoss, ValueLoss, policy_loss, value_loss
from rlhf.rollouts import Rollout
from rlhf.trajectory import rows_for_model
from rlhf.value_model import ValueModel


@dataclass(frozen=True)
class Learner:
    """The two models that PPO trains, and their optimizer: group 0 policy, group 1 value model."""

    policy: Policy
    value_model: ValueModel
    optimizer: torch.optim.Optimizer

    @property
    def models(self) -> dict[str, nn.Module]:
        """The trained modules by name."""
        return {"policy": self.policy.model, "value model": self.value_model}


class PPOStats(NamedTuple):
    """Means over the action tokens of all optimizer steps of an update; norms over the steps."""

    policy_loss: float
    value_loss: float
    approxkl: float
    """Half the mean squared log-ratio, nats."""
    clipfrac: float
    value_clipfrac: float
    ratio: float
    ratio_var: float
    grad_norm: float
    """Of the policy, before clipping."""
    value_grad_norm: float
    first_ratio_error: float
    """Largest |ratio - 1| on the first mini-batch, before any step: 0 up to rounding."""
    num_steps: int


SUMS = (
    "policy loss",
    "value loss",
    "squared log-ratio",
    "clipped",
    "value clipped",
    "ratio - 1",
    "squared ratio - 1",
)
"""What is summed over the action tokens of a step, in this order, in one float64 tensor."""


def make_learner(policy: Policy, value_model: ValueModel, config: PPOConfig) -> Learner:
    """Return a learner with a fresh Adam (no weight decay, epsilon as configured).

    Raises: ConfigError: the policy has no parameter that may be trained.
    """
    groups = [
        {"name": "policy", "params": trainable(policy.model), "lr": config.learning_rate},
        {"name": "value", "params": trainable(value_model), "lr": config.value_learning_rate},
    ]
    if not groups[0]["params"]:
        raise ConfigError("policy (=0 trainable parameters) must have some; unfreeze or merge it.")
    return Learner(policy, value_model, torch.optim.Adam(groups, eps=config.adam_epsilon))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of `model` that training may move, tied ones once."""
    return [p for p in model.parameters() if p.requires_grad]


def set_learning_rates(learner: Learner, config: PPOConfig, update: int) -> None:
    """Set every group's rate for `update` (from 1): linear, full at the first, 0 after the last."""
    left = 1.0 - (update - 1) / config.num_updates
    rates = (config.learning_rate, config.value_learning_rate)
    for group, rate in zip(learner.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * left


def ppo_step(
    learner: Learner, rollout: Rollout, config: PPOConfig, update: int, micro_batch_size: int
) -> PPOStats:
    """Train policy and value model on a rollout; return what happened.

    Raises: TrainingError: a loss or a gradient is NaN or Inf. The step is then not taken.
    """
    num_rows = len(rollout.trajectory)
    totals, num_tokens = torch.zeros(len(SUMS), dtype=torch.float64), 0
    norms, ratio_errors = [], []
    for epoch in range(config.num_ppo_epochs):
        order = generator("ppo order", config.seed, update, epoch).permutation(num_rows)
        for number, chosen in enumerate(order.reshape(config.num_mini_batches, -1)):
            where = f"update {update}, epoch {epoch + 1}, mini-batch {number + 1}"
            learner.optimizer.zero_grad(set_to_none=True)
            sums, error = add_gradients(learner, rollout, chosen.tolist(), config, micro_batch_size)
            norms.append(clip_gradients(learner, sums, config.max_grad_norm, where))
            learner.optimizer.step()
            ratio_errors.append(error)
            totals += sums.cpu()
            num_tokens += int(rollout.trajectory.action_mask[chosen.tolist()].sum())
    mean = dict(zip(SUMS, (totals / num_tokens).tolist(), strict=True))
    policy_norm, value_norm = (sum(column) / len(norms) for column in zip(*norms, strict=True))
    return PPOStats(
        policy_loss=mean["policy loss"],
        value_loss=mean["value loss"],
        approxkl=0.5 * mean["squared log-ratio"],
        clipfrac=mean["clipped"],
        value_clipfrac=mean["value clipped"],
        ratio=1.0 + mean["ratio - 1"],
        ratio_var=mean["squared ratio - 1"] - mean["ratio - 1"] ** 2,
        grad_norm=policy_norm,
        value_grad_norm=value_norm,
        first_ratio_error=max(distributed.gather_objects(ratio_errors[0])),
        num_steps=len(norms),
    )


def add_gradients(
    learner: Learner,
    rollout: Rollout,
    rows: Sequence[int],
    config: PPOConfig,
    micro_batch_size: int,
) -> tuple[Tensor, float]:
    """Leave the mini-batch's gradient in the parameters; return `SUMS` and max |ratio - 1|.

    The gradient is that of policy_loss + vf_coef * value_loss, both means over the action tokens of
    `rows`. It and `SUMS` are over all processes, max |ratio - 1| over this one's rows.
    """
    trajectory, device = rollout.trajectory, rollout.logprobs.device
    num_tokens = int(trajectory.action_mask[list(rows)].sum())
    lengths = trajectory.num_tokens
    by_length = sorted(rows, key=lambda i: -lengths[i])
    mine = [by_length[i] for i in distributed.share(len(by_length))]
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
    error = torch.zeros((), dtype=torch.float64, device=device)
    for part in micro_batches(trajectory, mine, micro_batch_size):
        inputs = rows_for_model(trajectory, part, learner.policy.pad_id)
        width = inputs.columns.shape[1]
        old = {
            name: getattr(rollout, name)[part, :width]
            for name in ("logprobs", "values", "advantages", "returns")
        }
        with compute_precision(config.precision, device):
            logprobs = action_logprobs(learner.policy.model, inputs, config.sampling.temperature)
            values = state_values(learner.value_model, inputs)
        mask = inputs.action_mask
        pg = policy_loss(logprobs, old["logprobs"], old["advantages"], mask, config.cliprange)
        vf = value_loss(values, old["values"], old["returns"], mask, config.cliprange_value)
        loss = (pg.loss.sum() + config.vf_coef * vf.loss.sum()) / num_tokens
        loss.backward()
        sums += token_sums(pg, vf)
        error = torch.maximum(error, (pg.ratio.double() - 1.0).abs().max())
    parameters = [p for model in learner.models.values() for p in trainable(model)]
    for parameter in parameters:
        if parameter.grad is None:  # this process had no rows, or a layer that nothing reads
            parameter.grad = torch.zeros_like(parameter)
    distributed.all_reduce_sum_([*(p.grad for p in parameters if p.grad is not None), sums])
    return sums, float(error)


def token_sums(policy: PolicyLoss, value: ValueLoss) -> Tensor:
    """Return `SUMS` of a micro-batch, (7,) float64; masked slots add nothing to any of them."""
    columns = (
        policy.loss.detach(),
        value.loss.detach(),
        policy.log_ratio.square(),
        policy.clipped,
        value.clipped,
        policy.ratio - 1.0,
        (policy.ratio - 1.0).square(),
    )
    return torch.stack([column.double().sum() for column in columns])


def clip_gradients(
    learner: Learner, sums: Tensor, max_norm: float, where: str
) -> tuple[float, float]:
    """Scale each model's gradient down to `max_norm` at most; return the norms before, in order.

    Raises: TrainingError: a loss or a gradient is NaN or Inf; it names the first one found.
    """
    for name, total in zip(SUMS[:2], sums.tolist(), strict=False):
        if not math.isfinite(total):
            raise TrainingError(f"{name} at {where} (={total}) must be finite.")
    norms = []
    for name, model in learner.models.items():
        parameters = trainable(model)
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(norm):  # before scaling, which would spread it to every parameter
            raise TrainingError(
                f"gradient of the {name} at {where} (={float(norm)}) must be finite; "
                f"{non_finite_gradients(model)}."
            )
        clip_grads_with_norm_(parameters, max_norm, norm)
        norms.append(float(norm))
    return norms[0], norms[1]


def non_finite_gradients(model: nn.Module) -> str:
    """Return a clause that names the parameters whose gradients are not finite."""
    named = [
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not torch.isfinite(p.grad).all()
    ]
    return f"first of {len(named)} parameters: {named[0]}" if named else "its norm overflows"
