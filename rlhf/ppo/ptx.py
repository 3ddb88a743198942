"""PPO-ptx: a supervised loss on demonstrations beside PPO's, so that a policy forgets less of them.

Section 3.5 of Ouyang et al. 2022 (arXiv:2203.02155) mixes in text of the pre-training; here it is
demonstrations, of which every run has some, and the loss is the mean over their response tokens.

Which demonstrations belong to a step is a pure function of (seed, update, epoch, mini-batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from plumbrule.data.records import Demonstration, read_records
from plumbrule.errors import DataError
from plumbrule.lm.demonstrations import encode_demonstrations
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import buckets
from plumbrule.lm.parallel import distributed, fsdp
from plumbrule.lm.randomness import generator
from plumbrule.lm.response_logprobs import token_logprobs
from plumbrule.lm.token_rows import TokenRow
from rlhf.ppo.optimisation.mini_batches import OptimizerStep
from rlhf.ppo.rollout.evaluation import compute_precision


class PTX(NamedTuple):
    """What PPO-ptx adds to every optimizer step."""

    demonstrations: Sequence[TokenRow]
    coef: float
    """Weight of their loss (mean nats per response token)."""
    batch_size: int
    """Demonstrations per optimizer step."""


def read_demonstrations(path: Path, policy: Policy) -> list[TokenRow]:
    """Return the demonstrations in `path` that fit the policy's context.

    Raises: DataError: none does, or the chat template refuses one.
    """
    every = read_records(Demonstration, path)
    policy.check_chats(every)
    found = encode_demonstrations(policy, every)
    if not found.rows:
        raise DataError(
            f"demonstrations (={found.num_too_long} rows) must hold one that fits the context (="
            f"{policy.spec.context} tokens).",
            path,
        )
    return found.rows


def add_ptx_gradients(
    policy: Policy,
    ptx: PTX,
    place: OptimizerStep,
    *,
    seed: int,
    precision: str,
    micro_batch_size: int,
) -> Tensor:
    """Add the gradient of this process's rows; return sums (2,) float64: loss, response tokens.

    The gradient is that of `ptx.coef` times the mean negative log-likelihood of the response tokens
    of the step's demonstrations, over all processes.
    """
    demonstrations = ptx.demonstrations
    draw = generator("ppo ptx", seed, *place)
    rows = draw.integers(len(demonstrations), size=ptx.batch_size).tolist()
    num_tokens = sum(demonstrations[row].num_actions for row in rows)
    mine = [rows[i] for i in distributed.rank_indices(len(rows))]
    lengths = [demonstrations[i].num_tokens for i in mine]
    device = policy.model.device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    own = [[mine[i] for i in part] for part in buckets(lengths, micro_batch_size)]
    for part, counts in fsdp.padded_micro_batches(policy.model, own, rows, micro_batch_size):
        drawn = [demonstrations[i] for i in part]
        with compute_precision(precision, device):
            found = token_logprobs(policy, drawn)
        (-ptx.coef * counts * found.sum() / num_tokens).backward()
        sums[0] -= counts * found.detach().double().sum()
        sums[1] += counts * sum(row.num_actions for row in drawn)
    return sums
