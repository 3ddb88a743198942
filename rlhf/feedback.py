"""Stage `feedback`: K answers per prompt from one policy, ranked by a known utility or by people.

1. Passages are chosen for a share of the prompts.
2. K answers per prompt are sampled. Each has a key of its own, (seed, prompt, k), so answers do
   not depend on batches, on the order of prompts or on which other prompts there are. Sampling is
   nearly all of the cost, so answers are kept in chunks of prompts, each a checkpoint: a killed
   stage reads the chunks that are complete and samples the others, with the same keys and so the
   same words.
3. The labeller `gold` gives each answer a utility, that of the generated world, so that what the
   rankings say falsely is known exactly.
4. A person is not a function: normal noise, keyed per answer, and a planted taste for length are
   added before ranking. The noise-free utilities go along in `meta`, for measurement only.
5. Answers of equal text are one answer. A prompt whose answers are all equal says nothing about
   preference; it is left out of the rankings and counted.

With `person` or `file`, people rank (`rlhf/labelling/`) and steps 3 and 4 fall away: there are no
utilities. The stage then writes the questions into the store and stops until they are judged; the
judgements that it used are kept beside the rankings.

Training and held-out prompts are kept apart from the input to the output. `samples.jsonl` holds
every answer, also those that the rankings leave out: a reward model's zero and unit are measured on
samples of the policy as they come.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule import checkpoints
from plumbrule.artifacts import Artifact, write_json
from plumbrule.atlas.gold import GoldUtility
from plumbrule.config import RuntimeConfig
from plumbrule.errors import DataError
from plumbrule.generation import generate
from plumbrule.models import Policy, load_policy, resolve_device
from plumbrule.passages import passages_for
from plumbrule.progress import Progress
from plumbrule.protocols import Episode, Scorer
from plumbrule.randomness import generator, row_key
from plumbrule.records import Preference, Prompt, read_records, write_records
from plumbrule.tracking import Tracker
from rlhf.config import FeedbackConfig
from rlhf.labelling import asking
from rlhf.labelling.judgements import read_file, write_file
from rlhf.labelling.questions import in_asking_order, question_of, write_questions
from rlhf.labelling.verdicts import verdicts
from rlhf.rankings import count_agreement, count_ties, first_of_each, ranks_of

CHUNK_PROMPTS = 128
"""Prompts whose answers are sampled and checkpointed together."""
SPLITS = {"train": "records.jsonl", "validation": "validation.jsonl"}


class Question(NamedTuple):
    """A prompt, the split it belongs to and the passages shown with it."""

    prompt: Prompt
    split: str
    passages: tuple[str, ...]


class Answer(NamedTuple):
    """One sampled answer. logprob: of the whole answer, nats, its terminal token counted."""

    response: str
    finished: bool
    logprob: float
    key: int


class Judged(NamedTuple):
    """What the labeller made of one question's K answers.

    utilities: (K,) without noise; None where people judge. preference: of the distinct answers;
    None where all are equal or no one could say.
    """

    utilities: list[float] | None
    preference: Preference | None


def run(
    config: FeedbackConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Sample, label and write; return the headline metrics `feedback/*`.

    Raises: DataError: no prompt fits the context, or none has two different answers, or the labels
    of a file break a rule. NeedsInput: people have not judged all questions yet.
    """
    if config.labels is not None:
        read_file(Path(config.labels))  # a row that is wrong by itself costs no sampling
    policy = load_policy(inputs["policy"].file("model"), device=resolve_device(runtime))
    # 1 questions: prompts that fit, with their passages
    prompts, num_too_long = read_prompts(inputs["prompts"], policy, config)
    index = inputs.get("index") if config.retrieval.share > 0 else None
    passages = passages_for(
        [prompt for _, prompt in prompts],
        policy,
        index.open(method=config.retrieval.method) if index is not None else None,
        config.retrieval,
        seed=config.seed,
        max_new_tokens=config.sampling.max_new_tokens,
    )
    questions = [
        Question(prompt, split, shown)
        for (split, prompt), shown in zip(prompts, passages, strict=True)
    ]
    # 2 answers
    answers = sample_all(policy, questions, config, out / "checkpoints", tracker)
    require_rankable(answers)
    # 3, 4, 5 utilities, noise, rankings
    people: dict[str, float] = {}
    if config.labeller == "gold":
        judged = judge_all(questions, answers, GoldUtility(config.gold), config)
    else:
        judged, people = ask(questions, answers, config, out)
    metrics = measure(answers, judged) | people
    for split, name in SPLITS.items():
        pairs = zip(questions, judged, strict=True)
        kept = [j.preference for q, j in pairs if q.split == split and j.preference is not None]
        write_records(kept, out / name)
    write_samples(out / "samples.jsonl", questions, answers, judged)
    write_json(out / "notes.json", notes(metrics, num_too_long))
    tracker.rewind(0)
    tracker.log(metrics, update=len(questions))
    return metrics


def read_prompts(
    artifact: Artifact, policy: Policy, config: FeedbackConfig
) -> tuple[list[tuple[str, Prompt]], int]:
    """Return (split, prompt) of the prompts that leave room for a response, and how many do not.

    With `num_prompts` the held-out split is cut in the same proportion as the training split,
    unless `num_held_out` says otherwise; a number above what there is takes all.
    Raises: DataError: none fits.
    """
    train, held_out = (read_records(Prompt, artifact.file(name)) for name in SPLITS.values())
    number = min(config.num_prompts or len(train), len(train))
    share = math.ceil(len(held_out) * number / len(train)) if train else len(held_out)
    train, held_out = train[:number], held_out[: config.num_held_out or share]
    room = policy.spec.context - config.sampling.max_new_tokens
    found = [("train", p) for p in train] + [("validation", p) for p in held_out]
    fitting = [(split, p) for split, p in found if len(policy.encode(p.messages)) <= room]
    if not fitting:
        raise DataError(
            f"at least one of {len(found)} prompts must leave room for "
            f"{config.sampling.max_new_tokens} new tokens in a context of {policy.spec.context}; "
            "lower feedback.sampling.max_new_tokens or give shorter prompts.",
            artifact.file(SPLITS["train"]),
        )
    return fitting, len(found) - len(fitting)


def sample_all(
    policy: Policy,
    questions: Sequence[Question],
    config: FeedbackConfig,
    folder: Path,
    tracker: Tracker,
) -> list[list[Answer]]:
    """Return K answers per question, read from `folder` where a chunk of them is complete."""
    k = config.num_responses
    answers: list[list[Answer]] = []
    starts = range(0, len(questions), CHUNK_PROMPTS)
    with tracker.progress(len(questions) * k, "feedback", "answers") as line:
        for number, start in enumerate(starts):
            chunk = questions[start : start + CHUNK_PROMPTS]
            saved = folder / f"checkpoint-{number}"
            if checkpoints.is_complete(saved):
                line.skip(len(chunk) * k)
            else:
                write = partial(_write_answers, answers=sample_chunk(policy, chunk, config, line))
                checkpoints.save(folder, number, write, keep=len(starts))
            rows = json.loads((saved / "answers.json").read_text(encoding="utf-8"))
            answers += [[Answer(*answer) for answer in row] for row in rows]
    return answers


def sample_chunk(
    policy: Policy, questions: Sequence[Question], config: FeedbackConfig, line: Progress
) -> list[list[Answer]]:
    """Sample K answers to each question, each by its own key."""
    k = config.num_responses
    keys = [row_key("feedback", config.seed, q.prompt.id, i) for q in questions for i in range(k)]
    encoded = [policy.encode(q.prompt.messages, q.passages) for q in questions]
    rows = [tokens for tokens in encoded for _ in range(k)]
    samples = generate(policy, rows, sampling=config.sampling, keys=keys, progress=line)
    answers = [
        Answer(policy.decode(s.tokens), bool(s.finished), float(sum(s.logprobs)), key)
        for s, key in zip(samples, keys, strict=True)
    ]
    return [answers[i : i + k] for i in range(0, len(answers), k)]


def judge_all(
    questions: Sequence[Question],
    answers: Sequence[Sequence[Answer]],
    labeller: Scorer,
    config: FeedbackConfig,
) -> list[Judged]:
    """Return the utilities and the noisy ranking of every question's answers."""
    episodes = [
        Episode(q.prompt, q.passages, a.response, a.finished)
        for q, row in zip(questions, answers, strict=True)
        for a in row
    ]
    judgement = {term: [float(x) for x in v] for term, v in labeller.score(episodes).items()}
    judged, start = [], 0
    for question, row in zip(questions, answers, strict=True):
        terms = {term: v[start : start + len(row)] for term, v in judgement.items()}
        judged.append(judge(question, row, terms, config))
        start += len(row)
    return judged


def judge(
    question: Question,
    answers: Sequence[Answer],
    terms: Mapping[str, Sequence[float]],
    config: FeedbackConfig,
) -> Judged:
    """Rank one question's distinct answers by noisy utility.

    terms: "score" and the terms it is the sum of, (K,) each, without noise.
    """
    utilities = list(terms["score"])
    kept = first_of_each([a.response for a in answers])
    if len(kept) < 2:
        return Judged(utilities, None)
    noisy = []
    for k in kept:
        error = generator("label", config.seed, question.prompt.id, k).normal() * config.noise
        words = len(answers[k].response.split())
        noisy.append(utilities[k] + error + config.length_taste * words / 10)
    meta = {
        **question.prompt.meta,
        "finished": [answers[k].finished for k in kept],
        "utilities": [utilities[k] for k in kept],
        "terms": {t: [values[k] for k in kept] for t, values in terms.items() if t != "score"},
    }
    preference = Preference(
        id=question.prompt.id,
        messages=question.prompt.messages,
        responses=tuple(answers[k].response for k in kept),
        ranks=ranks_of(noisy, config.tie_width),
        passages=question.passages,
        scores=tuple(noisy),
        annotator=config.labeller,
        meta=meta,
    )
    return Judged(utilities, preference)


def require_rankable(answers: Sequence[Sequence[Answer]]) -> None:
    """Raise DataError unless some prompt has two different answers."""
    if all(len(first_of_each([a.response for a in row])) < 2 for row in answers):
        raise DataError(
            f"not one of {len(answers)} prompts has two different answers, so there is nothing to "
            "rank; raise feedback.sampling.temperature or feedback.num_responses."
        )


def ask(
    questions: Sequence[Question],
    answers: Sequence[Sequence[Answer]],
    config: FeedbackConfig,
    out: Path,
) -> tuple[list[Judged], dict[str, float]]:
    """Return what people made of each question's answers, and metrics of the people.

    Writes the questions and the judgements that were used, of those who judged all, beside the
    rankings. Raises: NeedsInput, or DataError for a file: fewer people than wanted have.
    """
    distinct = [first_of_each([a.response for a in row]) for row in answers]
    wanted = [
        question_of(q.prompt.messages, q.passages, [row[k].response for k in kept])
        if len(kept) > 1
        else None
        for q, row, kept in zip(questions, answers, distinct, strict=True)
    ]
    asked = in_asking_order([w for w in wanted if w is not None], config.repeats)
    if config.labels is None:
        said = asking.of_people(asked, config.annotators, out)
    else:
        said = asking.of_file(asked, config.annotators, Path(config.labels))
    made = verdicts(asked, said)
    judged = []
    for question, row, kept, one in zip(questions, answers, distinct, wanted, strict=True):
        ranking = None if one is None else made.rankings.get(one.id)
        if ranking is not None:
            meta = {"question_id": ranking.id, "finished": [row[k].finished for k in kept]}
            meta = {**question.prompt.meta, **ranking.meta, **meta}
            ranking = dataclasses.replace(ranking, id=question.prompt.id, meta=meta)
        judged.append(Judged(None, ranking))
    write_questions(asked, out / "questions.jsonl")
    write_file([own[q.id] for own in said.values() for q in asked], out / "labels.jsonl")
    return judged, made.metrics


def measure(answers: Sequence[Sequence[Answer]], judged: Sequence[Judged]) -> dict[str, float]:
    """Return the headline metrics.

    tie_rate: share of pairs of distinct answers that tie. agreement: share of pairs, ordered both
    without noise and in the ranking, that are ordered the same: the highest accuracy that a reward
    model can reach on these labels. duplicates: share of answers whose text another has, too.

    Without utilities there are no `agreement` and no `utility`.

    Raises: DataError: no prompt has a ranking, since no one could say.
    """
    kept = [j.preference for j in judged if j.preference is not None]
    if not kept:
        raise DataError('not one question was ranked (all say "can\'t say"); judge some.')
    flat = [a for row in answers for a in row]
    num_equal = sum(len(first_of_each([a.response for a in row])) < 2 for row in answers)
    num_repeats = sum(len(row) - len(first_of_each([a.response for a in row])) for row in answers)
    tied, pairs = (sum(c) for c in zip(*(count_ties(p.ranks) for p in kept), strict=True))
    metrics = {
        "feedback/prompts": float(len(kept)),
        "feedback/prompts_all_equal": float(num_equal),
        "feedback/answers": float(len(flat)),
        "feedback/duplicates": num_repeats / len(flat),
        "feedback/pairs": float(pairs - tied),
        "feedback/tie_rate": tied / pairs,
        "feedback/finished": sum(a.finished for a in flat) / len(flat),
        "feedback/with_passages": sum(bool(p.passages) for p in kept) / len(kept),
    }
    utilities = [u for j in judged if j.utilities is not None for u in j.utilities]
    if not utilities:
        return metrics | {"feedback/prompts_cant_say": float(len(judged) - num_equal - len(kept))}
    metrics["feedback/utility"] = sum(utilities) / len(flat)
    same, compared = (
        sum(c)
        for c in zip(*(count_agreement(p.meta["utilities"], p.ranks) for p in kept), strict=True)
    )
    return metrics | ({"feedback/agreement": same / compared} if compared else {})


def write_samples(
    path: Path,
    questions: Sequence[Question],
    answers: Sequence[Sequence[Answer]],
    judged: Sequence[Judged],
) -> None:
    """Write one row per answer as it was sampled, repeats included; `sample` counts from 0."""
    with open(path, "w", encoding="utf-8") as file:
        for question, row, verdict in zip(questions, answers, judged, strict=True):
            for k, answer in enumerate(row):
                utility = None if verdict.utilities is None else verdict.utilities[k]
                sample = _sample_row(question, k, answer, utility)
                file.write(json.dumps(sample, ensure_ascii=False) + "\n")


def notes(metrics: Mapping[str, float], num_too_long: int) -> list[str]:
    """Return the sentences that a report must show: what was left out."""
    said = []
    if num_too_long:
        said.append(f"{num_too_long} prompts were left out: they leave no room for a response.")
    if equal := int(metrics["feedback/prompts_all_equal"]):
        said.append(f"{equal} prompts were not ranked: all their sampled answers are equal.")
    if unsaid := int(metrics.get("feedback/prompts_cant_say", 0)):
        said.append(f"{unsaid} prompts were not ranked: no annotator could say which is better.")
    return said


def _write_answers(folder: Path, answers: Sequence[Sequence[Answer]]) -> None:
    text = json.dumps(answers, ensure_ascii=False)
    (folder / "answers.json").write_text(text, encoding="utf-8")


def _sample_row(
    question: Question, k: int, answer: Answer, utility: float | None
) -> dict[str, Any]:
    messages = question.prompt.messages
    return {
        "id": question.prompt.id,
        "split": question.split,
        "sample": k,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "prompt": messages[-1].content,
        "passages": list(question.passages),
        "response": answer.response,
        "finished": answer.finished,
        "logprob": answer.logprob,
        "key": answer.key,
        "utility": utility,
    }
