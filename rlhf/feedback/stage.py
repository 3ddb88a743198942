"""Stage `feedback`: K answers per prompt from one policy, ranked by a labeller.

1. Passages are chosen for a share of the prompts, and K answers per prompt are sampled
   (`sampling.py`), in chunks that a killed stage finds again.
2. The labeller ranks each prompt's distinct answers (`labellers.py`): the known utility of the
   generated world, a reward, a language model, or people. A prompt whose answers are all equal says
   nothing about preference; it is left out of the rankings and counted.

With `person`, the stage writes the questions into the store and stops until they are judged; the
judgements that it used are kept beside the rankings.

Training and held-out prompts are kept apart from the input to the output. `samples.jsonl` holds
every answer, also those that the rankings leave out: a reward model's zero and unit are measured on
samples of the policy as they come, and other methods choose among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plumbrule.data.records import write_records
from plumbrule.errors import DataError
from plumbrule.lm.cost_metrics import READ, cost_metrics, num_weights
from plumbrule.lm.loading import load_policy, resolve_device
from plumbrule.lm.logprobs import trunk
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import CHECKPOINTS, MODEL, NOTES, SAMPLES, SPLITS
from plumbrule.store.json_files import write_json, write_jsonl
from rlhf.feedback.config import FeedbackConfig
from rlhf.feedback.labellers import Judged, check_labeller, label
from rlhf.feedback.rankings import count_agreement, count_ties
from rlhf.feedback.sampling import (
    SampledPrompt,
    SampledResponse,
    distinct,
    open_searcher,
    read_questions,
    sample_all,
)


def run(
    config: FeedbackConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Sample, label and write; return the headline metrics `feedback/*`.

    Raises: DataError: no prompt fits the context, or none has two different answers, or the labels
    of a file break a rule, or no prompt fits the judge. ConfigError, TrainingError: a reward or a
    judge that does not open or work. NeedsInput: people have not judged all questions yet.
    """
    check_labeller(config, inputs, runtime)
    # 1 prompts with their passages, and answers
    questions, answers, num_too_long, size = answered(config, inputs, runtime, out, tracker)
    # 2 rankings
    labels = label(questions, answers, config, inputs, runtime, out, tracker)
    metrics = measure(answers, labels.judged) | labels.metrics
    metrics |= cost(questions, answers, labels.judged, size)
    for split, name in SPLITS.items():
        pairs = zip(questions, labels.judged, strict=True)
        kept = [j.preference for q, j in pairs if q.split == split and j.preference is not None]
        write_records(kept, out / name)
    write_samples(out / SAMPLES, questions, answers, labels.judged)
    write_json(out / NOTES, notes(metrics, num_too_long) + labels.notes)
    tracker.rewind(0)
    tracker.log(metrics, update=len(questions))
    return metrics


def answered(
    config: FeedbackConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> tuple[list[SampledPrompt], list[list[SampledResponse]], int, int]:
    """Return questions, K answers to each, how many prompts leave no room, and the policy's size.

    That is in weights that a token is multiplied with.
    The policy is gone afterwards: a labeller may need the memory.
    """
    policy = load_policy(inputs["policy"].file(MODEL), device=resolve_device(runtime))
    questions, num_too_long = read_questions(inputs, policy, config, runtime)
    searcher = open_searcher(config, inputs, runtime)
    answers = sample_all(policy, questions, config, out / CHECKPOINTS, tracker, searcher)
    return questions, answers, num_too_long, num_weights(trunk(policy.model))


def cost(
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    judged: Sequence[Judged],
    size: int,
) -> dict[str, float]:
    """Return what answers and rankings to train on cost, as headline metrics.

    Held-out ones serve to measure and cost nothing here. A prompt is read once for all its answers.
    Args: size: weights of the policy.
    """
    rows = [row for q, row in zip(questions, answers, strict=True) if q.split == "train"]
    kept = [j for q, j in zip(questions, judged, strict=True) if q.split == "train"]
    sampled = sum(answer.num_tokens for row in rows for answer in row)
    read = sum(row[0].num_prompt_tokens for row in rows)
    read += sum(answer.num_result_tokens for row in rows for answer in row)
    return cost_metrics(
        generated_tokens=sampled,
        training_flops=READ * size * (read + sampled),
        labels=sum(j.preference is not None for j in kept),
    )


def measure(
    answers: Sequence[Sequence[SampledResponse]], judged: Sequence[Judged]
) -> dict[str, float]:
    """Return the headline metrics.

    tie_rate: share of pairs of distinct answers that tie. agreement: share of pairs, ordered both
    by the gold utility without noise and in the ranking, that are ordered the same: the highest
    accuracy that a reward model can reach on these labels. duplicates: share of answers whose text
    another has, too. flipped: share of rankings that were reversed, if any could be.

    Where no utilities are known there are no `agreement` and no `utility`.

    Raises: DataError: no prompt has a ranking, since no one could say.
    """
    kept = [j.preference for j in judged if j.preference is not None]
    if not kept:
        raise DataError('not one question was ranked (all say "can\'t say"); judge some.')
    flat = [a for row in answers for a in row]
    num_distinct = [len(distinct(row)) for row in answers]
    tied, pairs = (sum(c) for c in zip(*(count_ties(p.ranks) for p in kept), strict=True))
    metrics = {
        "feedback/prompts": float(len(kept)),
        "feedback/prompts_all_equal": float(sum(n < 2 for n in num_distinct)),
        "feedback/answers": float(len(flat)),
        "feedback/duplicates": (len(flat) - sum(num_distinct)) / len(flat),
        "feedback/pairs": float(pairs - tied),
        "feedback/tie_rate": tied / pairs,
        "feedback/finished": sum(a.finished for a in flat) / len(flat),
        "feedback/with_passages": sum(bool(p.passages) for p in kept) / len(kept),
    }
    if searched := [a.searching for a in flat if a.searching is not None]:
        totals = {
            "calls": sum(len(one.calls) for one in searched),
            "malformed": sum(one.malformed for one in searched),
            "unanswered": sum(one.unanswered for one in searched),
        }
        metrics |= {f"feedback/search_{name}": n / len(flat) for name, n in totals.items()}
    if flips := [p.flipped for p in kept if p.flipped is not None]:
        metrics["feedback/flipped"] = sum(flips) / len(flips)
    utilities = [u for j in judged if j.utilities is not None for u in j.utilities]
    if not utilities:
        return metrics
    metrics["feedback/utility"] = sum(utilities) / len(utilities)
    counts = [count_agreement(p.utilities, p.ranks) for p in kept if p.utilities is not None]
    same, compared = (sum(c) for c in zip((0, 0), *counts, strict=True))
    return metrics | ({"feedback/agreement": same / compared} if compared else {})


def write_samples(
    path: Path,
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    judged: Sequence[Judged],
) -> None:
    """Write one row per answer as it was sampled, repeats included; `sample` counts from 0."""
    rows = (
        _sample_row(question, k, answer)
        | {
            "score": None if verdict.scores is None else verdict.scores[k],
            "utility": None if verdict.utilities is None else verdict.utilities[k],
        }
        for question, row, verdict in zip(questions, answers, judged, strict=True)
        for k, answer in enumerate(row)
    )
    write_jsonl(path, rows)


def notes(metrics: Mapping[str, float], num_too_long: int) -> list[str]:
    """Return the sentences that a report must show: what was left out."""
    said = []
    if num_too_long:
        said.append(f"{num_too_long} prompts were left out: they leave no room for a response.")
    if equal := int(metrics["feedback/prompts_all_equal"]):
        said.append(f"{equal} prompts were not ranked: all their sampled answers are equal.")
    return said


def _sample_row(question: SampledPrompt, k: int, answer: SampledResponse) -> dict[str, Any]:
    prompt = question.prompt
    searched: dict[str, Any] = {}
    if answer.searching is not None:
        searches = answer.searches
        searched = {
            "searching": answer.searching,
            "searches": None if searches is None else [asdict(search) for search in searches],
        }
    return searched | {
        "id": prompt.id,
        "split": question.split,
        "sample": k,
        "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
        "prompt": prompt.messages[-1].content,
        "passages": list(question.passages),
        "response": answer.response,
        "finished": answer.finished,
        "logprob": answer.logprob,
        "key": answer.key,
        "meta": dict(prompt.meta),
    }
