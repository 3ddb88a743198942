"""What the models say about a trajectory's tokens: log-probs, entropies and values per position.

Training and scoring read them through the same two functions, so the first ratio of an update is 1
up to the rounding of differently cut batches. Under `precision=bfloat16` the forward pass runs in
autocast; the weights, the value head and the log-softmax stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import buckets, hidden_states, logprobs
from plumbrule.lm.parallel import distributed
from plumbrule.timing import timed
from rlhf.masked import fill
from rlhf.ppo.rollout.trajectory import ModelRows, Trajectory, rows_for_model
from rlhf.ppo.value_model import ValueModel


class Evaluation(NamedTuple):
    """All (b, t), 0 where there is no action token (values: no step)."""

    logprobs: Tensor
    """Of the policy before the update, nats."""
    ref_logprobs: Tensor
    """Of the reference policy, nats."""
    values: Tensor
    """Of the state before each step; 0 without a value model."""
    entropy: Tensor
    """Of the policy's whole next-token distribution, nats."""
    teacher_logprobs: Tensor | None = None
    """Of the teacher, nats; None: there is none (`teacher.py`)."""


def compute_precision(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which a forward pass runs: autocast for bfloat16, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def last_hidden(model: nn.Module, rows: ModelRows) -> Tensor:
    """Return the policy's last hidden states (n, l, h): those before a step, others as they may."""
    return hidden_states(
        model, rows.tokens, rows.real_mask, rows.frozen_states, wanted=before_steps(rows)
    )


def before_steps(rows: ModelRows) -> Tensor:
    """Return the columns (n, l) bool behind which the process takes a step."""
    row, position = rows.step_mask.nonzero(as_tuple=True)
    wanted = torch.zeros_like(rows.real_mask)
    wanted[row, rows.columns[row, position] - 1] = True
    return wanted


def action_logprobs(
    model: nn.Module, rows: ModelRows, temperature: float, hidden: Tensor | None = None
) -> Tensor:
    """Return the log-prob of each action token at the temperature that sampled it, (n, t) nats.

    Differentiable; 0 elsewhere.

    Args: hidden: `last_hidden`, where it is known already.
    """
    if hidden is None and rows.frozen_states is not None:
        hidden = last_hidden(model, rows)
    scores = logprobs(
        model, rows.tokens, rows.real_mask, rows.target_mask, temperature, hidden=hidden
    )
    return fill(scores.logprobs.gather(1, inside(rows)), rows.action_mask)


def inside(rows: ModelRows) -> Tensor:
    """Return the columns (n, t) of action tokens, 0 for any other position."""
    return torch.where(rows.action_mask, rows.columns, 0)


def action_scores(
    model: nn.Module,
    rows: ModelRows,
    temperature: float,
    hidden: Tensor | None = None,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return log-probs as `action_logprobs` and, beside them, the entropy at each action token.

    Args: entropy_gradient: whether the entropies are differentiable as well.
    """
    if hidden is None and rows.frozen_states is not None:
        hidden = last_hidden(model, rows)
    scores = logprobs(
        model,
        rows.tokens,
        rows.real_mask,
        rows.target_mask,
        temperature,
        entropy=True,
        hidden=hidden,
        entropy_gradient=entropy_gradient,
    )
    assert scores.entropy is not None  # it was asked for
    columns = inside(rows)
    found = fill(scores.logprobs.gather(1, columns), rows.action_mask)
    return found, fill(scores.entropy.gather(1, columns), rows.action_mask)


def state_values(model: ValueModel, rows: ModelRows, hidden: Tensor | None = None) -> Tensor:
    """Return the value of the state before each step, (n, t); 0 elsewhere.

    Args: hidden: the policy's `last_hidden`, for a value model without a trunk.
    """
    before = (rows.columns - 1).clamp(min=0)
    values = model(rows.tokens, rows.real_mask, rows.frozen_states, hidden)
    return fill(values.gather(1, before), rows.step_mask)


def reads_policy(model: ValueModel | None) -> bool:
    """Return whether a value model has no trunk of its own."""
    return model is not None and model.trunk is None


def evaluate(
    trajectory: Trajectory,
    policy: Policy,
    ref_policy: Policy,
    value_model: ValueModel | None,
    *,
    temperature: float,
    precision: str,
    micro_batch_size: int,
    ref_context: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Evaluation:
    """Return what the models say before the update; no gradient, the same in every process.

    Args: ref_context: in which the reference is read.

    The log-probs that become `old_logprobs` are taken here, from the pass that training
    differentiates, and not from the sampler: then the ratio starts at 1 also where the sampler's
    arithmetic is another one (bfloat16, a key-value cache). How far the two are apart is metered
    (`rlhf/ppo/measures/metrics.py`).
    """
    mask = trajectory.action_mask
    dtype = torch.promote_types(policy.model.dtype, torch.float32)
    blank = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    result = [blank, blank.clone(), blank.clone(), blank.clone()]
    mine = list(distributed.rank_indices(len(trajectory)))
    for rows in micro_batches(trajectory, mine, micro_batch_size):
        inputs = rows_for_model(trajectory, rows, policy.pad_id)
        with torch.inference_mode(), compute_precision(precision, mask.device):
            with timed("policy"):
                hidden = last_hidden(policy.model, inputs) if reads_policy(value_model) else None
                new, entropy = action_scores(policy.model, inputs, temperature, hidden)
            with timed("ref"), ref_context():
                ref = action_logprobs(ref_policy.model, inputs, temperature)
            values = torch.zeros_like(ref)
            if value_model is not None:
                with timed("value"):
                    values = state_values(value_model, inputs, hidden)
        width = inputs.columns.shape[1]
        for whole, part in zip(result, (new, ref, values, entropy), strict=True):
            whole[rows, :width] = part
    distributed.all_reduce_sum_(result)  # rows of other processes are 0 here
    return Evaluation(*result)


def micro_batches(
    trajectory: Trajectory, rows: list[int], micro_batch_size: int
) -> Iterator[list[int]]:
    """Yield `rows` in groups of like length, longest first; a function of the lengths alone."""
    lengths = trajectory.num_tokens
    for group in buckets([lengths[i] for i in rows], micro_batch_size):
        yield [rows[i] for i in group]
