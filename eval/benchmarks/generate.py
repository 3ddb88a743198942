"""What a benchmark is to the stage.

A benchmark is two functions: `measure(records, condition, subject)` asks the policy and returns
item rows, and `summarise(rows, intervals)` turns rows into metrics and needs no model. `subject`
carries the policy under test with all that it may use; whether passages are shown is the condition.
An item that does not fit the policy's context is left out whole and counted in a note: a text that
was cut in silence would be another benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eval.config import EvalConfig
from plumbrule.data.records import Prompt
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import Policy
from plumbrule.lm.randomness import row_key
from plumbrule.lm.response_logprobs import TokenRow
from plumbrule.lm.retrieval_prompts import passages_for
from plumbrule.protocols import Episode, Retriever, Scorer, Tracker
from plumbrule.runtime_config import RuntimeConfig


class Measured(NamedTuple):
    """What measuring one benchmark under one condition gave; all of it is JSON."""

    items: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    notes: list[str]


class Answered(NamedTuple):
    """A sampled answer beside its token ids."""

    episode: Episode
    row: TokenRow


@dataclass(frozen=True)
class Subject:
    """The policy under test and what it may use.

    retriever: None where the node has no index. reward_model: None where it has no rm. reference:
    what its KL is measured to, None where the node has none. reward: what training maximises, all
    terms of it, None where the node has none.
    """

    policy: Policy
    retriever: Retriever | None
    reward_model: Scorer | None
    config: EvalConfig
    runtime: RuntimeConfig
    tracker: Tracker
    reference: Policy | None = None
    reward: Scorer | None = None


def respond(
    prompts: Sequence[Prompt], condition: str, subject: Subject, sampling: SamplingConfig, what: str
) -> tuple[list[Episode], list[str]]:
    """Return one response per prompt that fits, and notes on those that do not."""
    answered, notes = sample(prompts, condition, subject, sampling, what)
    return [one.episode for one in answered], notes


def sample(
    prompts: Sequence[Prompt], condition: str, subject: Subject, sampling: SamplingConfig, what: str
) -> tuple[list[Answered], list[str]]:
    """Return one response per prompt that fits, with its tokens, and notes on those that do not.

    A sampled response depends on (seed, prompt id) alone, so one policy's answer to a prompt does
    not change with the other prompts, and both conditions draw the same random numbers.
    """
    policy, seed = subject.policy, subject.config.seed
    given: list[tuple[str, ...]] = [()] * len(prompts)
    if condition == "rag":
        given = passages_for(
            prompts,
            policy,
            subject.retriever,
            subject.config.retrieval,
            seed=seed,
            max_new_tokens=sampling.max_new_tokens,
        )
    return sample_all(prompts, given, subject, sampling, what)


def answer_all(
    prompts: Sequence[Prompt],
    given: Sequence[tuple[str, ...]],
    subject: Subject,
    sampling: SamplingConfig,
    what: str,
) -> tuple[list[Episode], list[str]]:
    """Return one response per prompt that fits with its passages, and notes on those that don't."""
    answered, notes = sample_all(prompts, given, subject, sampling, what)
    return [one.episode for one in answered], notes


def sample_all(
    prompts: Sequence[Prompt],
    given: Sequence[tuple[str, ...]],
    subject: Subject,
    sampling: SamplingConfig,
    what: str,
) -> tuple[list[Answered], list[str]]:
    """Return what `answer_all` does, with the tokens."""
    policy, seed = subject.policy, subject.config.seed
    encoded = [
        policy.encode(prompt.messages, passages)
        for prompt, passages in zip(prompts, given, strict=True)
    ]
    room = policy.spec.context - sampling.max_new_tokens
    kept = [i for i, tokens in enumerate(encoded) if len(tokens) <= room]
    with subject.tracker.progress(len(kept), what, "responses") as line:
        answers = generate(
            policy,
            [encoded[i] for i in kept],
            sampling=sampling,
            keys=[row_key("eval", seed, prompts[i].id) for i in kept],
            progress=line,
        )
    answered = [
        Answered(
            Episode(prompts[i], given[i], policy.decode(answer.tokens), answer.finished),
            TokenRow(tuple(encoded[i]), tuple(answer.tokens)),
        )
        for i, answer in zip(kept, answers, strict=True)
    ]
    return answered, left_out(what, len(prompts) - len(kept), len(prompts), room)


def left_out(what: str, num_left_out: int, num_items: int, room_tokens: int) -> list[str]:
    """Return the note on items that did not fit, or none."""
    if num_left_out == 0:
        return []
    return [
        f"{what}: {num_left_out} of {num_items} items are longer than {room_tokens} tokens, all "
        "that the policy's context leaves for them; they are left out whole."
    ]


def sample_row(benchmark: str, condition: str, episode: Episode, **shown: Any) -> dict[str, Any]:
    """Return the row of `samples.jsonl` that shows an episode."""
    return {
        "id": episode.prompt.id,
        "benchmark": benchmark,
        "condition": condition,
        "prompt": episode.prompt.messages[-1].content,
        "passages": list(episode.passages),
        "response": episode.response,
        **shown,
    }
