"""Demonstrations as token ids, and what a policy makes of them.

A demonstration becomes the prompt that the policy would be sampled from (`Policy.encode`, passages
through its retrieval template) and the response that it should give (`Policy.encode_response`,
terminal token last). One that does not fit the context is left out whole and counted: cut anywhere,
it would teach either a prompt that is never seen or a response that never ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from plumbrule.data.records import Demonstration
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import buckets, logprobs, pad_rows


class Example(NamedTuple):
    """A demonstration and its token ids; `response` ends with the terminal token."""

    demonstration: Demonstration
    prompt: list[int]
    response: list[int]


class Examples(NamedTuple):
    """The examples that fit the context, and how many did not."""

    fitting: list[Example]
    num_too_long: int


def encode(policy: Policy, demonstrations: Iterable[Demonstration]) -> Examples:
    """Return the demonstrations as token ids, those that are longer than the context left out."""
    examples = [
        Example(d, policy.encode(d.messages, d.passages), policy.encode_response(d.response))
        for d in demonstrations
    ]
    fitting = [e for e in examples if len(e.prompt) + len(e.response) <= policy.spec.context]
    return Examples(fitting, len(examples) - len(fitting))


@torch.no_grad()
def mean_nll(policy: Policy, examples: Sequence[Example], rows_per_pass: int) -> float:
    """Return the mean negative log-likelihood of all response tokens, nats per token.

    The mean is over tokens, not over batches or rows, so it does not depend on how they are dealt
    out. Terminal tokens count. `examples` must not be empty.
    """
    device = policy.model.device
    nats, num_tokens = 0.0, 0
    rows = [[*e.prompt, *e.response] for e in examples]
    for chosen in buckets([len(row) for row in rows], rows_per_pass):
        tokens, real_mask = pad_rows([rows[i] for i in chosen], policy.pad_id)
        begins = torch.tensor([len(examples[i].prompt) for i in chosen])
        target_mask = real_mask & (torch.arange(tokens.shape[1]) >= begins[:, None])
        scores = logprobs(
            policy.model, tokens.to(device), real_mask.to(device), target_mask.to(device)
        )
        nats -= scores.logprobs.double().sum().item()
        num_tokens += int(target_mask.sum())
    return nats / num_tokens
