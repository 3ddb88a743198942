"""Questions about new facts, and whether a policy answers one rightly.

Both ways of giving a policy a new fact are timed until its greedy answer is right, as the gold
utility reads it (`plumbrule/atlas/gold.py`): `sft/learn_fact/` trains, `rag/add_fact/` adds a
document. A fact that the policy answers rightly before it is told, by a guess, is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from plumbrule.atlas.gold import terms
from plumbrule.data.records import BenchmarkItem, Message, Prompt, read_records
from plumbrule.errors import DataError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.policy import Policy
from plumbrule.lm.randomness import row_key
from plumbrule.protocols import Episode

NEW = "documents"
"""`answerable` of a question that only documents after the cut-off answer."""


class FactAnswer(NamedTuple):
    """A greedy answer, and whether it states the reference and nothing else."""

    response: str
    is_right: bool


def new_fact_prompts(path: Path) -> list[Prompt]:
    """Return the questions of a file on facts after the cut-off, the first on each fact.

    Raises: DataError: there is none.
    """
    found: dict[tuple[str, str], Prompt] = {}
    for item in read_records(BenchmarkItem, path):
        if item.meta.get("answerable") == NEW:
            messages = (Message("user", str(item.fields["question"])),)
            found.setdefault(fact_of(item.meta), Prompt(item.id, messages, item.meta))
    if not found:
        raise DataError(
            "questions must hold one on a fact after the cut-off (meta.answerable=documents); "
            "give others, or raise atlas.num_questions.",
            path,
        )
    return list(found.values())


def fact_of(meta: Mapping[str, Any]) -> tuple[str, str]:
    """Return (entity, relation) of the meta of a question or demonstration; blanks where none."""
    return str(meta.get("entity", "")), str(meta.get("relation", ""))


def spread_over(prompts: Sequence[Prompt], number: int) -> list[Prompt]:
    """Return all prompts, `number` evenly spaced ones first."""
    step = max(1, len(prompts) // number)
    first = range(0, len(prompts), step)[:number]
    return [prompts[i] for i in first] + [p for i, p in enumerate(prompts) if i not in first]


def answer_fact(
    policy: Policy,
    prompt: Prompt,
    tokens: Sequence[int],
    passages: tuple[str, ...],
    max_new_tokens: int,
) -> FactAnswer:
    """Return the policy's greedy answer. Args: tokens: of the prompt, passages included."""
    sampling = SamplingConfig(0.0, max_new_tokens, 1)
    sample = generate(
        policy, [list(tokens)], sampling=sampling, keys=[row_key("fact", 0, prompt.id)]
    )[0]
    response = policy.decode(sample.tokens)
    episode = Episode(prompt, passages, response, sample.finished)
    return FactAnswer(response, bool(terms(episode, brief_words=1)["right"]))


def until_answered(prefix: str, seconds: Sequence[float | None]) -> dict[str, float]:
    """Return the share of facts that came to be answered and the median seconds of those.

    Without a fact that was tried there is no share.
    Args: prefix: of the metrics. seconds: of each fact; None: it was not answered.
    """
    answered = [one for one in seconds if one is not None]
    found = {f"{prefix}/facts": float(len(seconds))}
    if seconds:
        found[f"{prefix}/answered"] = len(answered) / len(seconds)
    if answered:
        found[f"{prefix}/until_answered_seconds"] = median(answered)
    return found
