"""Held-out prompts answered greedily before and after PPO: what a reader looks at first.

The reference is the policy before training, so both sides can be written at the end, and a resumed
run writes the same file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from plumbrule.data.records import Prompt
from plumbrule.lm.config import RetrievalConfig, SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import Policy
from plumbrule.lm.retrieval_prompts import shown_prompts
from plumbrule.protocols import Retriever
from rlhf.ppo.rollout.evaluation import compute_precision
from rlhf.ppo.shared_trunk import Reference


def sample_rows(
    policy: Policy,
    reference: Reference,
    prompts: Sequence[Prompt],
    retriever: Retriever | None,
    *,
    sampling: SamplingConfig,
    retrieval: RetrievalConfig,
    seed: int,
    precision: str,
) -> list[dict[str, Any]]:
    """Return one row per prompt with both policies' greedy responses."""
    greedy = dataclasses.replace(sampling, temperature=0.0)
    shown = shown_prompts(
        prompts,
        policy,
        retriever,
        retrieval,
        seed=seed,
        max_new_tokens=greedy.max_new_tokens,
    )
    queries = [given.tokens for given in shown]
    unused_keys = [0] * len(queries)
    with compute_precision(precision, policy.model.device):
        with reference.context():
            before = generate(reference.policy, queries, sampling=greedy, keys=unused_keys)
        after = generate(policy, queries, sampling=greedy, keys=unused_keys)
    return [
        {
            "id": prompt.id,
            "prompt": prompt.messages[-1].content,
            "passages": list(given.passages),
            "response": policy.decode(new.tokens),
            "finished": new.finished,
            "response_before": policy.decode(old.tokens),
            "finished_before": old.finished,
        }
        for prompt, given, new, old in zip(prompts, shown, after, before, strict=True)
    ]
