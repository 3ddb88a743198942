"""One update of PPO: `num_ppo_epochs * num_mini_batches` optimizer steps over one rollout.

batch        the rollout's rows, the same in every process
mini-batch   batch_size / num_mini_batches rows, one optimizer step; cut anew in each epoch from an
             order that belongs to (seed, update, epoch)
micro-batch  rows of like length that go through the models together; a matter of memory only

A mini-batch's loss is the sum over its action tokens, divided by their number in the *whole*
mini-batch (the value loss: over its steps). That divisor is known before the first forward pass,
since masks are data, so the gradient is one and the same for every cut into micro-batches and every
number of processes: each process adds up its rows' gradients, and the sums are summed. (Means over
micro-batches, as most code takes them, weigh a token by the length of its neighbours.) Gradient
accumulation is this loop and nothing else; no wrapper decides when to step.

Policy and value model are separate models under one Adam with a group each (its moments are per
parameter, so this is two optimizers in one state). Their gradients are clipped apart: under one
common norm a value model that starts badly would shrink the policy's steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.loading import Policy, checkpoint_activations
from plumbrule.lm.parallel import distributed, fsdp
from plumbrule.lm.randomness import generator
from plumbrule.lm.response_logprobs import TokenRow
from rlhf.lr_schedules import lr_multiplier
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.kl import kl_loss
from rlhf.ppo.losses import PolicyLoss, ValueLoss, importance_weights, policy_loss, value_loss
from rlhf.ppo.optimisation.tensorflow_adam import TensorFlowAdam
from rlhf.ppo.options import SCHEDULES
from rlhf.ppo.ptx import add_ptx_gradients
from rlhf.ppo.rollout.evaluation import (
    action_logprobs,
    compute_precision,
    last_hidden,
    micro_batches,
    reads_policy,
    state_values,
)
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.trajectory import Trajectory, rows_for_model
from rlhf.ppo.value_model import ValueModel


@dataclass(frozen=True)
class Learner:
    """What PPO trains, and the optimizer: group 0 policy, group 1 value model if there is one."""

    policy: Policy
    value_model: ValueModel | None
    optimizer: torch.optim.Optimizer
    reader: Policy
    """The policy as it reads rollouts: itself, or its layers above the frozen ones."""

    @property
    def models(self) -> dict[str, nn.Module]:
        """The trained modules by name."""
        models: dict[str, nn.Module] = {"policy": self.policy.model}
        if self.value_model is not None:
            models["value model"] = self.value_model
        return models

    def checkpoint_activations(self) -> None:
        """Trade time for memory in all that is trained (`models.checkpoint_activations`)."""
        checkpoint_activations(self.reader.model)
        self.policy.model.train()  # or the sampler, when it is done, would set its layers back
        if self.value_model is not None and self.value_model.trunk is not None:
            checkpoint_activations(self.value_model.trunk)

    def training(self, config: PPOConfig, update: int) -> dict[str, nn.Module]:
        """Return the modules that `update` trains: during warm-up the value model alone."""
        models = self.models
        if update <= config.value_warmup_updates:
            del models["policy"]
        return models


class PPOStats(NamedTuple):
    """Means over the action tokens (of values: the steps) of all mini-batches; norms over steps.

    What an update did not train is 0, and the ratio 1.
    """

    policy_loss: float
    value_loss: float
    kl_loss: float
    """Of the KL in the loss, nats per token weighted by the ratio, before its coefficient."""
    ptx_loss: float
    """Nats per response token of the demonstrations."""
    approxkl: float
    """Half the mean squared log-ratio, nats."""
    clipfrac: float
    value_clipfrac: float
    cut_ratios: float
    """Share of tokens whose log-ratio was beyond what is exponentiated."""
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
)
"""What is summed over the action tokens of a mini-batch, in this order."""
VALUE_SUMS = ("value loss", "value clipped")
"""What is summed over its steps, in this order."""
SUMS = (*POLICY_SUMS, *VALUE_SUMS)
"""All of them, in one float64 tensor."""


def make_learner(
    policy: Policy,
    value_model: ValueModel | None,
    config: PPOConfig,
    reader: Policy | None = None,
) -> Learner:
    """Return a learner with a fresh Adam (no weight decay, epsilon as configured).

    Raises: ConfigError: the policy has no parameter that may be trained.
    """
    groups = [{"name": "policy", "params": trainable(policy.model), "lr": config.learning_rate}]
    if not groups[0]["params"]:
        raise ConfigError("policy (=0 trainable parameters) must have some; unfreeze or merge it.")
    if value_model is not None:
        own = trainable(value_model)
        groups.append({"name": "value", "params": own, "lr": config.value_learning_rate})
    optimizer: torch.optim.Optimizer
    if config.adam == "torch":
        # one pass over the memory; but weights that are spread and others don't share a kernel
        fused = not fsdp.is_sharded(policy.model)
        optimizer = torch.optim.Adam(groups, eps=config.adam_epsilon, fused=fused, foreach=False)
    else:
        optimizer = TensorFlowAdam(groups, eps=config.adam_epsilon)
    return Learner(policy, value_model, optimizer, reader or policy)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of `model` that training may move, tied ones once."""
    return [p for p in model.parameters() if p.requires_grad]


def learning_rates(config: PPOConfig, update: int) -> tuple[float, float]:
    """Return the rates of policy and value model for `update` (from 1) of the run."""
    schedule = SCHEDULES[config.lr_scheduler_type]
    share = lr_multiplier(update - 1, config.num_updates, config.warmup_share, schedule)
    return config.learning_rate * share, config.value_learning_rate * share


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Set each group's rate: the policy's, and the value model's if there is one."""
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        group["lr"] = rate


def ppo_step(
    learner: Learner,
    rollout: Rollout,
    config: PPOConfig,
    update: int,
    micro_batch_size: int,
    kl_coef: float = 0.0,
    demonstrations: Sequence[TokenRow] | None = None,
) -> PPOStats:
    """Train on a rollout what `update` trains; return what happened.

    Args: kl_coef: weight of the KL in the loss. demonstrations: for PPO-ptx, None without.
    Raises: TrainingError: a loss or a gradient is NaN or Inf. The step is then not taken.
    """
    trajectory, models = rollout.trajectory, learner.training(config, update)
    totals, divisors = (torch.zeros(len(SUMS), dtype=torch.float64) for _ in range(2))
    norms: list[dict[str, float]] = []
    ratio_errors, ptx_losses = [], []
    for where, rows in mini_batches(len(trajectory), config, update):
        learner.optimizer.zero_grad(set_to_none=True)
        sums, error = add_gradients(
            learner, rollout, rows, config, micro_batch_size, update, kl_coef
        )
        ptx_sums = torch.zeros(2, dtype=torch.float64, device=sums.device)
        if demonstrations is not None and "policy" in models:
            ptx_sums = add_ptx_gradients(
                learner.policy, demonstrations, config, micro_batch_size, where
            )
        reduce_gradients(models, [sums, ptx_sums])
        number = divisors_of(trajectory, rows)
        totals, divisors = totals + sums.cpu(), divisors + number
        ratio_errors.append(error)
        ptx_losses.append(float(ptx_sums[0] / ptx_sums[1].clamp(min=1)))
        approxkl = 0.5 * float(sums[SUMS.index("squared log-ratio")] / number[0])
        limit = config.early_stop.step_kl
        if limit is not None and approxkl > limit:
            break
        norms.append(clip_gradients(models, sums, config.max_grad_norm, str(where)))
        learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)  # their memory is the next rollout's
    fsdp.reshard(*learner.models.values())  # a policy that is only read has no backward pass
    mean = dict(zip(SUMS, (totals / divisors).tolist(), strict=True))
    norm = {name: sum(n[name] for n in norms) / max(1, len(norms)) for name in models}
    return PPOStats(
        policy_loss=mean["policy loss"],
        value_loss=mean["value loss"],
        kl_loss=mean["kl loss"],
        ptx_loss=sum(ptx_losses) / len(ptx_losses),
        approxkl=0.5 * mean["squared log-ratio"],
        clipfrac=mean["clipped"],
        value_clipfrac=mean["value clipped"],
        cut_ratios=mean["cut"],
        ratio=1.0 + mean["ratio - 1"],
        ratio_var=mean["squared ratio - 1"] - mean["ratio - 1"] ** 2,
        grad_norm=norm.get("policy", 0.0),
        value_grad_norm=norm.get("value model", 0.0),
        first_ratio_error=max(distributed.gather_objects(ratio_errors[0])),
        num_steps=len(norms),
    )


class Place(NamedTuple):
    """Which optimizer step of a run; epoch and mini_batch count from 1."""

    update: int
    epoch: int
    mini_batch: int

    def __str__(self) -> str:
        return f"update {self.update}, epoch {self.epoch}, mini-batch {self.mini_batch}"


def mini_batches(
    num_rows: int, config: PPOConfig, update: int
) -> Iterator[tuple[Place, list[int]]]:
    """Yield the rows of each optimizer step: all of them once an epoch, in an order of its own."""
    for epoch in range(config.num_ppo_epochs):
        order = generator("ppo order", config.seed, update, epoch).permutation(num_rows)
        for number, rows in enumerate(order.reshape(config.num_mini_batches, -1)):
            yield Place(update, epoch + 1, number + 1), rows.tolist()


def add_gradients(
    learner: Learner,
    rollout: Rollout,
    rows: Sequence[int],
    config: PPOConfig,
    micro_batch_size: int,
    update: int,
    kl_coef: float = 0.0,
) -> tuple[Tensor, float]:
    """Add the gradient of this process's rows to the parameters; return `SUMS` and max |ratio - 1|.

    The gradient is that of policy_loss + kl_coef * kl_loss + vf_coef * value_loss, the first two
    means over the action tokens of all `rows`, the last over their steps.
    """
    trajectory, device = rollout.trajectory, rollout.logprobs.device
    num_tokens, num_steps = divisors_of(trajectory, rows)[[0, -1]].tolist()
    models = learner.training(config, update)
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
            train_policy = torch.set_grad_enabled("policy" in models)
            with train_policy, compute_precision(config.precision, device):
                hidden = last_hidden(learner.reader.model, inputs)
        if "policy" in models:
            with compute_precision(config.precision, device):
                new = action_logprobs(
                    learner.reader.model, inputs, config.sampling.temperature, hidden
                )
            mask = inputs.action_mask
            pg = policy_loss(
                new,
                old.logprobs,
                old.advantages,
                mask,
                config.cliprange,
                config.dual_clip,
                config.policy_loss,
            )
            kl = kl_loss(new, old.ref_logprobs, mask, config.kl.estimator, pg.ratio)
            if config.importance_cap is not None:
                sampled = trajectory.rollout_logprobs[part, :width]
                weights = importance_weights(old.logprobs, sampled, mask, config.importance_cap)
                pg, kl = pg._replace(loss=weights * pg.loss), weights * kl
            losses.append(counts * (pg.loss.sum() + kl_coef * kl.sum()) / num_tokens)
            if hidden is None:
                losses.pop().backward()  # frees its activations before the value model's are made
            sums[: len(POLICY_SUMS)] += counts * policy_sums(pg, kl)
            error = torch.maximum(error, (pg.ratio.double() - 1.0).abs().max())
        if learner.value_model is not None:
            with compute_precision(config.precision, device):
                values = state_values(learner.value_model, inputs, hidden)
            vf = value_loss(
                values, old.values, old.returns, inputs.step_mask, config.cliprange_value
            )
            losses.append(counts * config.vf_coef * vf.loss.sum() / num_steps)
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
    """Return what each of `SUMS` is divided by for a mean over `rows`, (9,) float64."""
    chosen = list(rows)
    num_tokens = float(trajectory.action_mask[chosen].sum())
    num_steps = float(trajectory.step_mask[chosen].sum())
    counts = [num_tokens] * len(POLICY_SUMS) + [num_steps] * len(VALUE_SUMS)
    return torch.tensor(counts, dtype=torch.float64)


def policy_sums(policy: PolicyLoss, kl: Tensor) -> Tensor:
    """Return `POLICY_SUMS` of a micro-batch, float64; padding adds nothing to any of them."""
    columns = (
        policy.loss.detach(),
        kl.detach(),
        policy.log_ratio.square(),
        policy.clipped,
        policy.cut,
        policy.ratio - 1.0,
        (policy.ratio - 1.0).square(),
    )
    return torch.stack([column.double().sum() for column in columns])


def value_sums(value: ValueLoss) -> Tensor:
    """Return `VALUE_SUMS` of a micro-batch, float64; padding adds nothing to either."""
    return torch.stack([value.loss.detach().double().sum(), value.clipped.double().sum()])


def reduce_gradients(models: Mapping[str, nn.Module], sums: Sequence[Tensor]) -> None:
    """Replace gradients and sums by their sums over all processes.

    Those of weights that are spread are sums already.
    """
    parameters = [p for model in models.values() for p in trainable(model)]
    for parameter in parameters:
        if parameter.grad is None:  # this process had no rows, or a layer that nothing reads
            parameter.grad = torch.zeros_like(parameter)
    kept_whole = [
        p.grad for p in parameters if p.grad is not None and not fsdp.is_sharded_tensor(p)
    ]
    distributed.all_reduce_sum_([*kept_whole, *sums])


def clip_gradients(
    models: Mapping[str, nn.Module], sums: Tensor, max_norm: float, where: str
) -> dict[str, float]:
    """Scale each model's gradient down to `max_norm` at most; return the norms before.

    Raises: TrainingError: a loss or a gradient is NaN or Inf; it names the first one found.
    """
    for name, total in zip(SUMS, sums.tolist(), strict=True):
        if name.endswith("loss") and not math.isfinite(total):
            raise TrainingError(f"{name} at {where} (={total}) must be finite.")
    norms = {}
    for name, model in models.items():
        parameters = trainable(model)
        norm = fsdp.gradient_norm(parameters)
        if not torch.isfinite(norm):  # before scaling, which would spread it to every parameter
            raise TrainingError(
                f"gradient of the {name} at {where} (={float(norm)}) must be finite; "
                f"{non_finite_gradients(model)}."
            )
        fsdp.scale_gradients(parameters, max_norm, norm)
        norms[name] = float(norm)
    return norms


def non_finite_gradients(model: nn.Module) -> str:
    """Return a clause that names the parameters whose gradients are not finite."""
    named = [
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not torch.isfinite(fsdp.local(p.grad)).all()
    ]
    every = {name for part in distributed.gather_objects(named) for name in part}
    first = next((name for name, _ in model.named_parameters() if name in every), None)
    return f"first of {len(every)} parameters: {first}" if first else "its norm overflows"
