"""How far a policy is from another one: the KL of its own sampled answers.

The answers are sampled from the policy, so the sum over an answer's tokens of log p - log q is an
unbiased estimate of KL(p || q) for its prompt: k1 of Schulman 2020,
joschu.net/blog/kl-approx.html. Both log-probs are taken at the temperature that sampled, as they
must be. Every policy is measured by this one estimator on fresh samples, whatever its training
called its KL.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eval.benchmarks.answers import Answered
from plumbrule.errors import ConfigError
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import buckets, logprobs, pad_rows


@torch.no_grad()
def log_ratios(
    policy: Policy,
    reference: Policy,
    answered: Sequence[Answered],
    temperature: float,
    rows_per_pass: int,
) -> list[float]:
    """Return log p - log q of each answer, nats, p the policy and q the reference.

    Raises: ConfigError: the two have different tokenizers, so that no token compares.
    """
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise ConfigError(
            "inputs (=reference) must have the policy's tokenizer to measure a KL; leave it out."
        )
    rows = [[*one.query, *one.tokens] for one in answered]
    found = [0.0] * len(rows)
    for chosen in buckets([len(row) for row in rows], rows_per_pass):
        tokens, real_mask = pad_rows([rows[i] for i in chosen], policy.pad_id)
        target_mask = real_mask.clone()
        for place, i in enumerate(chosen):
            target_mask[place, : len(answered[i].query)] = False
        device = policy.model.device
        batch = (tokens.to(device), real_mask.to(device), target_mask.to(device))
        of_policy, of_reference = (
            logprobs(one.model, *batch, temperature=temperature).logprobs.double().sum(1)
            for one in (policy, reference)
        )
        for i, value in zip(chosen, (of_policy - of_reference).tolist(), strict=True):
            found[i] = value
    return found
