"""Questions for the policy, and the K answers that it gives to each.

Each answer has a key of its own, (seed, prompt, k), so answers do not depend on batches, on the
order of prompts or on which other prompts there are. Sampling is nearly all of the cost of
feedback, so answers are kept in chunks of prompts, each a checkpoint: a killed stage reads the
chunks that are complete and samples the others, with the same keys and so the same words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.records import DemonstratedSearch, Prompt, read_records, to_searches
from plumbrule.errors import ConfigError, DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.generation import generate
from plumbrule.lm.generation.search_turns import SearchedSample, Searcher
from plumbrule.lm.loading import Policy
from plumbrule.lm.randomness import row_key
from plumbrule.lm.retrieval_prompts import shown_prompts
from plumbrule.lm.search_calls.recorded import as_demonstrated, from_json
from plumbrule.protocols import Episode, ProgressLine, Searching, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import RECORDS, SPLITS
from plumbrule.store.json_files import read_json
from rlhf.feedback.config import FeedbackConfig
from rlhf.feedback.rankings import first_of_each
from rlhf.rewards.functions import check_prompts

CHUNK_PROMPTS = 128
"""Prompts whose answers are sampled and checkpointed together."""


class SampledPrompt(NamedTuple):
    """A prompt, the split it belongs to and the passages shown with it."""

    prompt: Prompt
    split: str
    passages: tuple[str, ...]
    tokens: Sequence[int] = ()
    """Token ids, passages included, where the policy is to answer it."""


class SampledResponse(NamedTuple):
    """One sampled answer. logprob: of the whole answer, nats, its terminal token counted.

    num_tokens: of the answer, what its search calls found not counted; num_result_tokens: of that.
    num_prompt_tokens: passages included. response: its last turn, of a policy that may search.
    searching: None: it may not. searches: its turns with a call as a demonstration would hold them;
    None: a call did not work, or it may make none.
    """

    response: str
    finished: bool
    logprob: float
    key: int
    num_tokens: int
    num_prompt_tokens: int
    num_result_tokens: int = 0
    searching: Searching | None = None
    searches: tuple[DemonstratedSearch, ...] | None = None

    @property
    def found(self) -> tuple[str, ...]:
        """Return the passages that its calls found."""
        return () if self.searching is None else self.searching.passages


def read_questions(
    inputs: Mapping[str, Artifact],
    policy: Policy,
    config: FeedbackConfig,
    runtime: RuntimeConfig,
) -> tuple[list[SampledPrompt], int]:
    """Return the prompts that leave room for a response, with the passages shown with each, and how
    many prompts do not.

    With `num_prompts` the held-out split is cut in the same proportion as the training split,
    unless `num_held_out` says otherwise; a number above what there is takes all.
    Raises: DataError: no prompt fits, or a reward term cannot score one. ConfigError: passages are
    wanted and there is no index.
    """
    prompts, num_too_long = _read_prompts(inputs["prompts"], policy, config)
    if config.labeller == "rm":
        check_prompts(config.reward.weights, [prompt for _, prompt, _ in prompts])
    retriever = None
    if config.retrieval.share > 0:
        retriever = Inputs(inputs).retriever("index", config.retrieval.method, runtime)
    shown = shown_prompts(
        [prompt for _, prompt, _ in prompts],
        policy,
        retriever,
        config.retrieval,
        seed=config.seed,
        max_new_tokens=config.most_response_tokens,
        plain=[tokens for _, _, tokens in prompts],
    )
    questions = [
        SampledPrompt(prompt, split, *given)
        for (split, prompt, _), given in zip(prompts, shown, strict=True)
    ]
    return questions, num_too_long


def open_searcher(
    config: FeedbackConfig, inputs: Mapping[str, Artifact], runtime: RuntimeConfig
) -> Searcher | None:
    """Return what answers prompts in turns; None where the policy may not search.

    Raises: ConfigError: there is no index.
    """
    if not config.search.is_on:
        return None
    retriever = Inputs(inputs).retriever("index", config.search.method, runtime)
    if retriever is None:
        raise ConfigError(
            f"feedback.search.max_turns (={config.search.max_turns} turns) must be 1 without an "
            "index; give the node an `index` input."
        )
    return Searcher(retriever, config.search)


def sample_all(
    policy: Policy,
    questions: Sequence[SampledPrompt],
    config: FeedbackConfig,
    folder: Path,
    tracker: Tracker,
    searcher: Searcher | None = None,
) -> list[list[SampledResponse]]:
    """Return K answers per question, read from `folder` where a chunk of them is complete.

    Raises: DataError: no question has two different answers.
    """
    k = config.num_responses
    answers: list[list[SampledResponse]] = []
    starts = range(0, len(questions), CHUNK_PROMPTS)
    with tracker.progress(len(questions) * k, "feedback", "answers") as line:
        for number, start in enumerate(starts):
            chunk = questions[start : start + CHUNK_PROMPTS]
            saved = folder / f"checkpoint-{number}"
            if checkpoints.is_complete(saved):
                line.skip(len(chunk) * k)
            else:
                made = sample_chunk(policy, chunk, config, line, searcher)
                write = partial(_write_answers, answers=made)
                checkpoints.save(folder, number, write, keep=len(starts))
            rows = read_json(saved / "answers.json")
            answers += [[_read_answer(answer) for answer in row] for row in rows]
    _require_rankable(answers)
    return answers


def sample_chunk(
    policy: Policy,
    questions: Sequence[SampledPrompt],
    config: FeedbackConfig,
    line: ProgressLine,
    searcher: Searcher | None = None,
) -> list[list[SampledResponse]]:
    """Sample K answers to each question, each by its own key.

    Args: searcher: answers in turns; None: the policy may not search.
    """
    k = config.num_responses
    keys = [row_key("feedback", config.seed, q.prompt.id, i) for q in questions for i in range(k)]
    rows = [q.tokens for q in questions for _ in range(k)]
    if searcher is not None:
        shown = [len(q.passages) for q in questions for _ in range(k)]
        found = searcher.answer(policy, rows, sampling=config.sampling, keys=keys, num_shown=shown)
        line.advance(len(rows))
        searched = [_searched(policy, *one, config) for one in zip(found, keys, rows, strict=True)]
        return [searched[i : i + k] for i in range(0, len(searched), k)]
    samples = generate(policy, rows, sampling=config.sampling, keys=keys, progress=line)
    answers = [
        SampledResponse(
            policy.decode(s.tokens),
            bool(s.finished),
            float(sum(s.logprobs)),
            key,
            len(s.tokens),
            len(row),
        )
        for s, key, row in zip(samples, keys, rows, strict=True)
    ]
    return [answers[i : i + k] for i in range(0, len(answers), k)]


def _searched(
    policy: Policy,
    one: SearchedSample,
    key: int,
    prompt: Sequence[int],
    config: FeedbackConfig,
) -> SampledResponse:
    """Return an answer in turns."""
    searches = as_demonstrated(one.searching, config.search)
    num_tokens = sum(one.action_mask)
    return SampledResponse(
        policy.decode(one.last_turn),
        bool(one.sample.finished),
        float(sum(one.sample.logprobs)),  # 0 at what the policy did not sample
        key,
        num_tokens,
        len(prompt),
        len(one.action_mask) - num_tokens,
        one.searching,
        None if searches is None else tuple(searches),
    )


def distinct(answers: Sequence[SampledResponse]) -> list[int]:
    """Return, in order, the places of answers whose text none before has: equal ones are one."""
    return first_of_each([answer.response for answer in answers])


def episodes_of(question: SampledPrompt, answers: Sequence[SampledResponse]) -> list[Episode]:
    """Return a question's answers as scorers judge them."""
    prompt, shown = question.prompt, question.passages
    return [
        Episode(prompt, (*shown, *a.found), a.response, a.finished, a.searching) for a in answers
    ]


def _read_prompts(
    artifact: Artifact, policy: Policy, config: FeedbackConfig
) -> tuple[list[tuple[str, Prompt, list[int]]], int]:
    """Return (split, prompt, token ids) of those that fit with a response, and how many do not."""
    train, held_out = (read_records(Prompt, artifact.file(name)) for name in SPLITS.values())
    policy.check_chats([*train, *held_out])
    number = min(config.num_prompts or len(train), len(train))
    share = math.ceil(len(held_out) * number / len(train)) if train else len(held_out)
    train, held_out = train[:number], held_out[: config.num_held_out or share]
    free_tokens = policy.spec.context - config.most_response_tokens
    found = [("train", p) for p in train] + [("validation", p) for p in held_out]
    encoded = [(split, p, policy.encode(p.messages)) for split, p in found]
    fitting = [(split, p, tokens) for split, p, tokens in encoded if len(tokens) <= free_tokens]
    if not fitting:
        raise DataError(
            f"at least one of {len(found)} prompts must leave room for "
            f"{config.most_response_tokens} new tokens in a context of {policy.spec.context}; "
            "lower feedback.sampling.max_new_tokens or give shorter prompts.",
            artifact.file(RECORDS),
        )
    return fitting, len(found) - len(fitting)


def _require_rankable(answers: Sequence[Sequence[SampledResponse]]) -> None:
    """Raise DataError unless some prompt has two different answers."""
    if all(len(distinct(row)) < 2 for row in answers):
        raise DataError(
            f"not one of {len(answers)} prompts has two different answers, so there is nothing to "
            "rank; raise feedback.sampling.temperature or feedback.num_responses."
        )


def _write_answers(folder: Path, answers: Sequence[Sequence[SampledResponse]]) -> None:
    rows = [[_answer_row(answer) for answer in row] for row in answers]
    text = json.dumps(rows, ensure_ascii=False)
    (folder / "answers.json").write_text(text, encoding="utf-8")


def _answer_row(answer: SampledResponse) -> list[Any]:
    """Return an answer as JSON; one of a policy that may not search has no columns for it."""
    if answer.searching is None:
        return list(answer[:6])
    searches = None if answer.searches is None else [asdict(search) for search in answer.searches]
    return [*answer[:8], searches]


def _read_answer(row: list[Any]) -> SampledResponse:
    """Return what `_answer_row` wrote."""
    if len(row) == 6:
        return SampledResponse(*row)
    *plain, searching, searches = row
    demonstrated = None if searches is None else to_searches(searches)
    return SampledResponse._make([*plain, from_json(searching), demonstrated])
