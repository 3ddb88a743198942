"""Which prompts are shown passages, and which passages they are shown.

Feedback and PPO both give passages to a share of their prompts, so that a policy meets prompts with
and without them. Whether a prompt is among them depends on (seed, its id) alone: not on its place
in a file, on the batch or on the process, and a prompt that is among them at share 0.3 is also at
0.6. Passages that do not fit are left out whole, never cut.

In training, chance may take passages away and put near misses beside them (`retrieval.dropout`,
`retrieval.num_distractors`). What it does depends on (seed, update, prompt id) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plumbrule.data.records import Message, Prompt
from plumbrule.errors import ConfigError
from plumbrule.lm.config import RetrievalConfig
from plumbrule.lm.loading import Policy
from plumbrule.lm.policy import show_passages
from plumbrule.lm.randomness import generator, row_key, uniforms
from plumbrule.protocols import Retriever
from plumbrule.timing import timed


class ShownPrompt(NamedTuple):
    """A prompt as a policy reads it."""

    passages: tuple[str, ...]
    """In the order in which they are shown; () where none are."""
    tokens: list[int]
    """Token ids, passages included."""


def shown_prompts(
    prompts: Sequence[Prompt],
    policy: Policy,
    retriever: Retriever | None,
    retrieval: RetrievalConfig,
    *,
    seed: int,
    max_new_tokens: int | Sequence[int],
    plain: Sequence[Sequence[int]] | None = None,
    update: int = 0,
) -> list[ShownPrompt]:
    """Return each prompt's passages and the token ids that show them; each is encoded once.

    The query is the last user turn. Passages take at most `retrieval.budget_tokens`, and never more
    than the policy's context leaves beside the prompt and a response of `max_new_tokens`.

    Args: max_new_tokens: of every response, or of each. plain: token ids of the prompts without
    passages; None: they are encoded here. update: of training, which with the seed and the prompt's
    id decides what chance does to its passages.
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
    rooms = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    chosen = [i for i, prompt in enumerate(prompts) if is_chosen(prompt.id, retrieval.share, seed)]
    queries = [prompts[i].messages[-1].content for i in chosen]
    with timed("retrieve"):
        found = retriever.search(queries, num_asked(retrieval)) if queries else []
        for i, passages in zip(chosen, found, strict=True):
            free_tokens = policy.spec.context - rooms[i] - len(plain[i])
            budget = min(retrieval.budget_tokens, free_tokens)
            if budget > 0:
                key = (seed, update, prompts[i].id)
                texts = offered([passage.text for passage in passages], retrieval, key)
                messages, own = prompts[i].messages, plain[i]
                shown, tokens = show_passages(policy, messages, own, texts, budget)
                if retrieval.order != "best_first" and len(shown) > 1:
                    shown, tokens = ordered(
                        policy, messages, own, shown, budget, retrieval.order, key
                    )
                given[i] = ShownPrompt(shown, tokens)
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
    """Return the passages of `shown_prompts`, () for those that are shown none."""
    shown = shown_prompts(
        prompts, policy, retriever, retrieval, seed=seed, max_new_tokens=max_new_tokens
    )
    return [prompt.passages for prompt in shown]


Key = tuple[int, int, str]
"""Seed, update and id of a prompt: what chance does to its passages depends on these alone."""
DISTRACTOR_RANKS = 10
"""Ranks behind the passages asked for, per distractor, from which distractors are drawn."""


def num_asked(retrieval: RetrievalConfig) -> int:
    """Return how many passages the retriever is asked for."""
    return retrieval.num_passages + DISTRACTOR_RANKS * retrieval.num_distractors


def offered(passages: Sequence[str], retrieval: RetrievalConfig, key: Key) -> list[str]:
    """Return the passages that a prompt is offered, best first, distractors behind them.

    Args: passages: `num_asked` of them, or as many as there are, best first.
    """
    best, behind = passages[: retrieval.num_passages], passages[retrieval.num_passages :]
    chances = np.array([row_key("passage dropout", *key)], dtype=np.uint64)
    places = np.arange(len(best))
    kept = uniforms(chances, places) >= retrieval.dropout
    number = min(retrieval.num_distractors, len(behind))
    drawn: list[int] = []
    if number:
        order = generator("distractors", *key).permutation(len(behind))
        drawn = sorted(order[:number].tolist())
    return [best[i] for i in places[kept].tolist()] + [behind[i] for i in drawn]


def ordered(
    policy: Policy,
    messages: Sequence[Message],
    plain: Sequence[int],
    passages: Sequence[str],
    budget_tokens: int,
    order: str,
    key: Key,
) -> tuple[tuple[str, ...], list[int]]:
    """Return passages that fit the budget best first, in another order, and the prompt's tokens.

    In another order they may take a few tokens more; then the worst is left out.

    Args: passages: best first. order: best_last or shuffled.
    """
    for number in range(len(passages), 0, -1):
        shown = tuple(passages[number - 1 :: -1])
        if order == "shuffled":
            mixed = generator("passage order", *key).permutation(number)
            shown = tuple(passages[i] for i in mixed.tolist())
        tokens = policy.encode(messages, shown)
        if len(tokens) - len(plain) <= budget_tokens:
            return shown, tokens
    return (), list(plain)


def is_chosen(prompt_id: str, share: float, seed: int) -> bool:
    """Return whether the prompt is among the `share` of prompts that are given passages."""
    key = np.array([row_key("passages", seed, prompt_id)], dtype=np.uint64)
    return bool(uniforms(key, 0)[0] < share)
