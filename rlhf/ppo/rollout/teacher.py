"""What a teacher thinks of the tokens that the policy sampled (`ppo.distill`).

It reads the policy's token ids, so its tokenizer must be the policy's; layers and sizes may be any.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from plumbrule.errors import ConfigError
from plumbrule.lm.parallel import distributed
from plumbrule.lm.policy import Policy
from plumbrule.timing import timed
from rlhf.ppo.rollout.evaluation import action_logprobs, compute_precision, micro_batches
from rlhf.ppo.rollout.trajectory import Trajectory, rows_for_model


def require_same_tokens(teacher: Policy, policy: Policy) -> None:
    """Raise ConfigError unless the teacher can read the policy's token ids, all that fit."""
    name = f"ppo.distill (=teacher {teacher.source})"
    if teacher.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        sizes = [len(model.tokenizer.get_vocab()) for model in (teacher, policy)]
        raise ConfigError(
            f"{name} must have the tokenizer of the policy {policy.source}: it reads the policy's "
            f"token ids, and the vocabularies differ ({sizes[0]} and {sizes[1]} tokens); use a "
            "teacher of the policy's family."
        )
    if teacher.spec.context < policy.spec.context:
        raise ConfigError(
            f"{name} must read the policy's context of {policy.spec.context} tokens, and its own "
            f"is {teacher.spec.context}; use another teacher, or lower model.context."
        )


def teacher_logprobs(
    trajectory: Trajectory,
    teacher: Policy,
    *,
    temperature: float,
    precision: str,
    micro_batch_size: int,
) -> Tensor:
    """Return the teacher's log-prob of each action token, (b, t) nats, 0 elsewhere.

    No gradient; the same in every process. Args: temperature: that sampled the tokens.
    """
    whole = dataclasses.replace(trajectory, frozen_states=None)  # those are the policy's
    mask = whole.action_mask
    dtype = torch.promote_types(teacher.model.dtype, torch.float32)
    found = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    for rows in micro_batches(whole, list(distributed.rank_indices(len(whole))), micro_batch_size):
        inputs = rows_for_model(whole, rows, teacher.pad_id)
        with (
            torch.inference_mode(),
            compute_precision(precision, mask.device),
            timed("teacher"),
        ):
            nats = action_logprobs(teacher.model, inputs, temperature)
        found[rows, : nats.shape[1]] = nats
    distributed.all_reduce_sum_([found])  # rows of other processes are 0 here
    return found
