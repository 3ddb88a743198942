"""Which prompts are shown passages, and which passages they are shown.

Feedback and PPO both give passages to a share of their prompts, so that a policy meets prompts with
and without them. Whether a prompt is among them depends on (seed, its id) alone: not on its place
in a file, on the batch or on the process, and a prompt that is among them at share 0.3 is also at
0.6. Passages that do not fit are left out whole, never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plumbrule.data.records import Prompt
from plumbrule.errors import ConfigError
from plumbrule.lm.config import RetrievalConfig
from plumbrule.lm.loading import Policy
from plumbrule.lm.policy import show_passages
from plumbrule.lm.randomness import row_key, uniforms
from plumbrule.protocols import Retriever
from plumbrule.timing import timed


class ShownPrompt(NamedTuple):
    """A prompt as a policy reads it."""

    passages: tuple[str, ...]
    """Best first; () where none are shown."""
    tokens: list[int]
    """Token ids, passages included."""


def shown_prompts(
    prompts: Sequence[Prompt],
    policy: Policy,
    retriever: Retriever | None,
    retrieval: RetrievalConfig,
    *,
    seed: int,
    max_new_tokens: int,
    plain: Sequence[Sequence[int]] | None = None,
) -> list[ShownPrompt]:
    """Return each prompt's passages and the token ids that show them; each is encoded once.

    The query is the last user turn. Passages take at most `retrieval.budget_tokens`, and never more
    than the policy's context leaves beside the prompt and a response of `max_new_tokens`.

    Args: plain: token ids of the prompts without passages; None: they are encoded here.
    Raises: ConfigError: a share above 0 without a retriever.
    """
    if plain is None:
        plain = [policy.encode(prompt.messages) for prompt in prompts]
    given = [ShownPrompt((), list(tokens)) for tokens in plain]
    if retrieval.share == 0.0 or not prompts:
        return given
    if retriever is None:
        raise ConfigError(
            f"retrieval.share (={retrieval.share:g}) must be 0 without an index; give the node an "
            "`index` input or set the share to 0."
        )
    chosen = [i for i, prompt in enumerate(prompts) if is_chosen(prompt.id, retrieval.share, seed)]
    queries = [prompts[i].messages[-1].content for i in chosen]
    with timed("retrieve"):
        found = retriever.search(queries, retrieval.num_passages) if queries else []
        for i, passages in zip(chosen, found, strict=True):
            free_tokens = policy.spec.context - max_new_tokens - len(plain[i])
            budget = min(retrieval.budget_tokens, free_tokens)
            if budget > 0:
                texts = [passage.text for passage in passages]
                shown = show_passages(policy, prompts[i].messages, plain[i], texts, budget)
                given[i] = ShownPrompt(*shown)
    return given


def passages_for(
    prompts: Sequence[Prompt],
    policy: Policy,
    retriever: Retriever | None,
    retrieval: RetrievalConfig,
    *,
    seed: int,
    max_new_tokens: int,
) -> list[tuple[str, ...]]:
    """Return the passages of `shown_prompts`, best first; () for those that are shown none."""
    shown = shown_prompts(
        prompts, policy, retriever, retrieval, seed=seed, max_new_tokens=max_new_tokens
    )
    return [prompt.passages for prompt in shown]


def is_chosen(prompt_id: str, share: float, seed: int) -> bool:
    """Return whether the prompt is among the `share` of prompts that are given passages."""
    key = np.array([row_key("passages", seed, prompt_id)], dtype=np.uint64)
    return bool(uniforms(key, 0)[0] < share)
