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
from plumbrule.lm.policy import Policy
from plumbrule.lm.response_logprobs import response_logprobs


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
    rows = [one.row for one in answered]
    of_policy, of_reference = (
        response_logprobs(
            one, rows, rows_per_pass, temperature=temperature, dtype=torch.float64
        ).to("cpu")
        for one in (policy, reference)
    )
    return (of_policy - of_reference).tolist()
