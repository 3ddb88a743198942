"""PPO-ptx: a supervised loss on demonstrations beside PPO's, so that a policy forgets less of them.

Section 3.5 of Ouyang et al. 2022 (arXiv:2203.02155) mixes in text of the pre-training; here it is
demonstrations, of which every run has some, and the loss is the mean over their response tokens.

Which demonstrations belong to a step is a pure function of (seed, update, epoch, mini-batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from plumbrule.data.records import Demonstration, read_records
from plumbrule.errors import DataError
from plumbrule.lm import distributed, fsdp
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import buckets, logprobs, pad_rows
from plumbrule.lm.randomness import generator
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.rollout.evaluation import compute_precision

if TYPE_CHECKING:
    from rlhf.ppo.step import Place


class Demonstrations(NamedTuple):
    """Token ids of each prompt, and of each response with its terminal token."""

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]


def read_demonstrations(path: Path, policy: Policy) -> Demonstrations:
    """Return the demonstrations in `path` that fit the policy's context.

    Raises: DataError: none does, or the chat template refuses one.
    """
    prompts, responses = [], []
    every = read_records(Demonstration, path)
    policy.check_chats(every)
    for row in every:
        prompt = policy.encode(row.messages, row.passages)
        response = policy.encode_response(row.response)
        if len(prompt) + len(response) <= policy.spec.context:
            prompts.append(prompt)
            responses.append(response)
    if not prompts:
        raise DataError(
            f"demonstrations (={len(every)} rows) must hold one that fits the context (="
            f"{policy.spec.context} tokens).",
            path,
        )
    return Demonstrations(prompts, responses)


def add_ptx_gradients(
    policy: Policy,
    demonstrations: Demonstrations,
    config: PPOConfig,
    micro_batch_size: int,
    place: Place,
) -> Tensor:
    """Add the gradient of this process's rows; return sums (2,) float64: loss, response tokens.

    The gradient is that of ptx.coef times the mean negative log-likelihood of the response tokens
    of the step's demonstrations, over all processes.
    """
    draw = generator("ppo ptx", config.seed, *place)
    rows = draw.integers(len(demonstrations.prompts), size=config.ptx.batch_size).tolist()
    num_tokens = sum(len(demonstrations.responses[row]) for row in rows)
    mine = [rows[i] for i in distributed.rank_indices(len(rows))]
    lengths = [len(demonstrations.prompts[i]) + len(demonstrations.responses[i]) for i in mine]
    device = policy.model.device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    own = [[mine[i] for i in part] for part in buckets(lengths, micro_batch_size)]
    for part, counts in fsdp.padded_micro_batches(policy.model, own, rows, micro_batch_size):
        joined = [[*demonstrations.prompts[i], *demonstrations.responses[i]] for i in part]
        tokens, real_mask = pad_rows(joined, policy.pad_id)
        begins = torch.tensor([len(demonstrations.prompts[i]) for i in part])[:, None]
        target_mask = real_mask & (torch.arange(tokens.shape[1])[None, :] >= begins)
        with compute_precision(config.precision, device):
            found = logprobs(
                policy.model, tokens.to(device), real_mask.to(device), target_mask.to(device)
            ).logprobs
        (-config.ptx.coef * counts * found.sum() / num_tokens).backward()
        sums[0] -= counts * found.detach().double().sum()
        sums[1] += counts * target_mask.sum()
    return sums
