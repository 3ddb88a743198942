"""Held-out prompts answered greedily before and after PPO: what a reader looks at first.

The reference is the policy before training, so both sides can be written at the end, and a resumed
run writes the same file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from plumbrule.data.records import Prompt
from plumbrule.lm.config import RetrievalConfig, SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.loading import Policy
from plumbrule.lm.retrieval_prompts import shown_prompts
from plumbrule.protocols import Retriever, SearchCall
from rlhf.ppo.rollout.evaluation import compute_precision
from rlhf.ppo.shared_trunk import ReferencePolicy


def sample_rows(
    policy: Policy,
    reference: ReferencePolicy,
    prompts: Sequence[Prompt],
    retriever: Retriever | None,
    *,
    sampling: SamplingConfig,
    retrieval: RetrievalConfig,
    seed: int,
    precision: str,
    searcher: Searcher | None = None,
) -> list[dict[str, Any]]:
    """Return one row per prompt with both policies' greedy responses.

    Args: searcher: answers in turns, whose queries and passages stand in the rows too; None: the
    policy may not search.
    """
    greedy = dataclasses.replace(sampling, temperature=0.0)
    room = greedy.max_new_tokens + (searcher.search.most_result_tokens if searcher else 0)
    shown = shown_prompts(prompts, policy, retriever, retrieval, seed=seed, max_new_tokens=room)
    unused_keys = [0] * len(shown)

    def answer(model: Policy) -> list[_Answered]:
        queries = [given.tokens for given in shown]
        if searcher is None:
            found = generate(model, queries, sampling=greedy, keys=unused_keys)
            return [_Answered(policy.decode(one.tokens), one.finished) for one in found]
        numbers = [len(given.passages) for given in shown]
        searched = searcher.answer(
            model, queries, sampling=greedy, keys=unused_keys, num_shown=numbers
        )
        return [
            _Answered(policy.decode(one.last_turn), one.sample.finished, one.searching.calls)
            for one in searched
        ]

    with compute_precision(precision, policy.model.device):
        with reference.context():
            before = answer(reference.policy)
        after = answer(policy)
    rows = []
    for prompt, given, new, old in zip(prompts, shown, after, before, strict=True):
        row = {
            "id": prompt.id,
            "prompt": prompt.messages[-1].content,
            "passages": [*given.passages, *(text for call in new.calls for text in call.passages)],
            "response": new.text,
            "finished": new.finished,
            "response_before": old.text,
            "finished_before": old.finished,
        }
        if searcher is not None:
            row["searches"] = [call.query for call in new.calls]
            row["searches_before"] = [call.query for call in old.calls]
        rows.append(row)
    return rows


class _Answered(NamedTuple):
    text: str
    finished: bool
    calls: tuple[SearchCall, ...] = ()
