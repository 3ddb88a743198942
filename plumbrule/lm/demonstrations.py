"""Demonstrations as token rows, those that fit the policy's context.

A demonstration becomes the prompt that the policy would be sampled from (`Policy.encode`, passages
through its retrieval template) and the response that it should give (`Policy.encode_response`,
terminal token last). One with searches becomes the turns that the sampler would put down, with a
mask of what the policy writes (`plumbrule/lm/search_calls/demonstrated.py`). One that does not fit
the context is left out whole and counted: cut anywhere, it would teach either a prompt that is
never seen or a response that never ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from plumbrule.data.records import Demonstration, Prompt
from plumbrule.lm.config import RetrievalConfig
from plumbrule.lm.policy import Policy
from plumbrule.lm.response_logprobs import token_row
from plumbrule.lm.retrieval_prompts import is_chosen, shown_prompts
from plumbrule.lm.search_calls.demonstrated import SearchedRows
from plumbrule.lm.token_rows import TokenRow
from plumbrule.protocols import Retriever


class EncodedDemonstrations(NamedTuple):
    """The demonstrations that fit the context, the row of each, and how many did not fit.

    lengths: tokens of every demonstration, those that do not fit too.
    """

    demonstrations: list[Demonstration]
    rows: list[TokenRow]
    num_too_long: int
    lengths: Sequence[int] = ()


def encode_demonstrations(
    policy: Policy, demonstrations: Sequence[Demonstration]
) -> EncodedDemonstrations:
    """Return the demonstrations as token ids, those that are longer than the context left out.

    Raises: DataError, ConfigError: a demonstration's searches can't be written (`SearchedRows`).
    """
    searched = SearchedRows(policy) if any(d.searches for d in demonstrations) else None
    rows = [
        token_row(policy, d.messages, d.passages, d.response)
        if searched is None or not d.searches
        else searched.write(d)
        for d in demonstrations
    ]
    fits = [row.num_tokens <= policy.spec.context for row in rows]
    return EncodedDemonstrations(
        [d for d, fit in zip(demonstrations, fits, strict=True) if fit],
        [row for row, fit in zip(rows, fits, strict=True) if fit],
        fits.count(False),
        [row.num_tokens for row in rows],
    )


def with_retrieved(
    policy: Policy,
    demonstrations: Sequence[Demonstration],
    retriever: Retriever | None,
    retrieval: RetrievalConfig,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> list[Demonstration]:
    """Return the demonstrations, a share of those without passages with retrieved ones.

    Those with searches of their own stay as they are.

    Passages leave room for their own response; what chance does to them is the same in every epoch.

    Args: say: is told how many were to have passages and got none; None: nobody is.
    Raises: ConfigError: a share above 0 without a retriever.
    """
    found = list(demonstrations)
    bare = [i for i, one in enumerate(found) if not (one.passages or one.searches)]
    if retrieval.share == 0.0 or not bare:
        return found
    responses = [len(policy.encode_response(found[i].response)) for i in bare]
    shown = shown_prompts(
        [Prompt(found[i].id, found[i].messages, found[i].meta) for i in bare],
        policy,
        retriever,
        retrieval,
        seed=seed,
        max_new_tokens=responses,
    )
    for i, prompt in zip(bare, shown, strict=True):
        found[i] = dataclasses.replace(found[i], passages=prompt.passages)
    chosen = [i for i in bare if is_chosen(found[i].id, retrieval.share, seed)]
    num_without = sum(not found[i].passages for i in chosen)
    if say is not None and num_without:
        say(
            f"{num_without} of {len(chosen)} demonstrations that were to have passages got none: "
            "none fits beside the response, was found, or was kept by retrieval.dropout"
        )
    return found
