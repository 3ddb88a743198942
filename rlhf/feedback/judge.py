"""The labeller `judge`: a language model that is asked which of two answers is better.

The judge reads the prompt, the passages shown with it and two answers, and is asked for one of two
words. Its vote is p(first word) / (p(first word) + p(second word)) after that question, read from
its log-probs; nothing is sampled. Judges favour a place whatever stands there, so every pair of
distinct answers is asked in both orders and the votes are averaged, as in Lee et al. 2023
(arXiv:2309.00267). They train on these soft votes; here they become a ranking, as all feedback is:
an answer's score is the mean chance that the judge prefers it to another answer to the prompt
(Borda's count of soft votes).

A prompt is judged on all its pairs or not at all, since an answer that meets fewer rivals would be
scored on another scale: where two answers of one do not fit the judge's context, it is left out and
counted.

Votes are kept in chunks of prompts, each a checkpoint, as answers are, and all of them in the
artifact's `judgements.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from plumbrule.data.records import Message
from plumbrule.errors import DataError
from plumbrule.lm.judges.answer_likelihood import log_odds, require_apart
from plumbrule.lm.judges.questions import conversation, fill
from plumbrule.lm.loading import Policy, resolve_device
from plumbrule.lm.named_policy import load_named
from plumbrule.protocols import ProgressLine, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact
from plumbrule.store.json_files import read_json, write_jsonl
from rlhf.feedback.config import JudgeConfig
from rlhf.feedback.sampling import SampledPrompt, SampledResponse, distinct

CHUNK_PROMPTS = 32
"""Prompts whose answers are judged and checkpointed together."""


class Vote(NamedTuple):
    """What the judge says of two of a prompt's K answers, shown in this order.

    first, second: the answers' places among the K. p_first: the chance that it prefers the first.
    """

    first: int
    second: int
    p_first: float


Votes = list[Vote]
"""On every ordered pair of a question's distinct answers."""


def open_judge(
    config: JudgeConfig, inputs: Mapping[str, Artifact], runtime: RuntimeConfig
) -> Policy:
    """Return the judge that `config` names, else the node's `judge` input.

    Raises: ConfigError: it does not load, or its tokenizer does not tell the two words apart.
    """
    judge = load_named(
        config.name_or_path,
        inputs.get("judge"),
        "feedback.judge",
        device=resolve_device(runtime),
        revision=config.revision,
        pad_token=config.pad_token,
        precision=config.precision,
    )
    require_apart(*words_of(judge, config))
    return judge


def words_of(judge: Policy, config: JudgeConfig) -> list[list[int]]:
    """Return the token ids of the two words, as they stand where an answer begins."""
    return [judge.encode_response(word, terminal=False) for word in config.words]


def vote_on_all(
    judge: Policy,
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    config: JudgeConfig,
    folder: Path,
    tracker: Tracker,
) -> list[Votes | None]:
    """Return the judge's votes on each question, read from `folder` where a chunk is complete.

    [] where all answers are equal, None where two of them do not fit the judge's context.
    Raises: DataError: none fits.
    """
    votes: list[Votes | None] = []
    starts = range(0, len(questions), CHUNK_PROMPTS)
    num_asked = [len(_ordered_pairs(row)) for row in answers]
    with tracker.progress(sum(num_asked), "judge", "questions") as line:
        for number, start in enumerate(starts):
            part = slice(start, start + CHUNK_PROMPTS)
            saved = folder / f"checkpoint-{number}"
            if checkpoints.is_complete(saved):
                line.skip(sum(num_asked[part]))
            else:
                made = vote_on_chunk(judge, questions[part], answers[part], config, line)
                checkpoints.save(folder, number, partial(_write, votes=made), keep=len(starts))
            rows = read_json(saved / "votes.json")
            votes += [None if row is None else [Vote(*vote) for vote in row] for row in rows]
    if not any(votes):
        raise DataError(
            f"at least one of {sum(v is None for v in votes)} prompts must fit the judge's context "
            f"(={judge.spec.context} tokens) with two of its answers; shorten "
            "feedback.judge.question or feedback.sampling.max_new_tokens, or use another judge."
        )
    return votes


def vote_on_chunk(
    judge: Policy,
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    config: JudgeConfig,
    line: ProgressLine,
) -> list[Votes | None]:
    """Return the judge's votes on each question; [] and None as in `vote_on_all`."""
    one, other = words_of(judge, config)
    free_tokens = judge.spec.context - max(len(one), len(other))
    places: list[list[tuple[int, int]] | None] = []
    asked: list[list[int]] = []
    for question, row in zip(questions, answers, strict=True):
        ordered = _ordered_pairs(row)
        texts = [turn(config.question, question, row[i], row[j]) for i, j in ordered]
        prompts = [judge.encode((Message("user", text),)) for text in texts]
        fits = all(len(prompt) <= free_tokens for prompt in prompts)
        places.append(ordered if fits else None)
        asked += prompts if fits else []
        line.skip(0 if fits else len(prompts))
    odds = log_odds(judge, asked, one, other, max_rows=config.batch_size, advance=line.advance)
    chances = iter(expit(odds).tolist())
    return [
        None if pairs is None else [Vote(i, j, next(chances)) for i, j in pairs] for pairs in places
    ]


def turn(
    template: str, question: SampledPrompt, first: SampledResponse, second: SampledResponse
) -> str:
    """Return what the judge is asked of two answers."""
    fields = {
        "prompt": conversation(question.prompt.messages),
        "first": first.response,
        "second": second.response,
    }
    return fill(template, question.passages, fields)


def scores_of(votes: Votes, answers: Sequence[SampledResponse]) -> list[float]:
    """Return the score of each of the K answers: the mean chance that it is preferred to another.

    An answer that repeats another has that one's score.
    """
    won: dict[int, list[float]] = {}
    for first, second, p_first in votes:
        won.setdefault(first, []).append(p_first)
        won.setdefault(second, []).append(1.0 - p_first)
    by_text = {answers[k].response: float(np.mean(chances)) for k, chances in won.items()}
    return [by_text[answer.response] for answer in answers]


def measure(votes: Sequence[Votes | None]) -> dict[str, float]:
    """Return `feedback/judge_position_bias`, the share of pairs on which both orders name one
    place, and `feedback/judge_first`, the mean chance that the first place is preferred.
    """
    changed: list[bool] = []
    first: list[float] = []
    for own in filter(None, votes):
        p = {(vote.first, vote.second): vote.p_first for vote in own}
        first += p.values()
        changed += [(p[i, j] - 0.5) * (p[j, i] - 0.5) > 0 for i, j in p if i < j]
    return {
        "feedback/judge_position_bias": float(np.mean(changed)),
        "feedback/judge_first": float(np.mean(first)),
    }


def write_votes(
    path: Path, questions: Sequence[SampledPrompt], votes: Sequence[Votes | None]
) -> None:
    """Write one row per vote: the prompt's id, the answers' places (`sample`) and `p_first`."""
    pairs = zip(questions, votes, strict=True)
    write_jsonl(
        path, ({"id": q.prompt.id, **vote._asdict()} for q, own in pairs for vote in own or ())
    )


def _ordered_pairs(answers: Sequence[SampledResponse]) -> list[tuple[int, int]]:
    """Return the places of every two distinct answers, in both orders."""
    return list(permutations(distinct(answers), 2))


def _write(folder: Path, votes: Sequence[Votes | None]) -> None:
    (folder / "votes.json").write_text(json.dumps(votes), encoding="utf-8")
