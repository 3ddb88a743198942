"""SimpleQA (Wei et al. 2024, arXiv:2411.04368): short facts, and whether the policy knows when not
to answer.

Each greedy answer is *correct*, *incorrect* or *not attempted*. The authors' grader is a language
model with their instructions; here a rule grades: not attempted, where the answer says that it does
not know and the reference is not in it; correct, where the reference stands in it, normalised as
SQuAD's, and it does not deny knowing; else incorrect. An answer that names the reference beside
other things counts as correct, and one in other words as incorrect, so numbers compare with one
another and not with published ones.

`f` is the harmonic mean of the share that is correct and of `correct_given_attempted`. A policy
that never attempts has neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from eval.benchmarks.answers import sample_row
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.open_answers.open_qa import answers_of, asked
from eval.benchmarks.quantity import Quantity
from eval.benchmarks.retrieved.columns import (
    metric_names,
    retrieval_columns,
    retrieval_metrics,
    retrieval_quantities,
)
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.atlas.judgement import ADMISSIONS, holds
from plumbrule.atlas.judgement import normalise_answer as plain_words
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem
from plumbrule.grounding.answer_match import contains

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

CORRECT, INCORRECT, NOT_ATTEMPTED = "correct", "incorrect", "not_attempted"
GRADES = (CORRECT, INCORRECT, NOT_ATTEMPTED)


def grade(response: str, references: Sequence[str]) -> str:
    """Return which of `GRADES` an answer is, by the rule of the module."""
    named = bool(contains(response, references))
    admits = holds(plain_words(response), ADMISSIONS) or not response.strip()
    if named and not admits:
        return CORRECT
    return NOT_ATTEMPTED if admits and not named else INCORRECT


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return a row per item: a column for each grade, and `attempted`.

    Raises: DataError: an item without question or answers.
    """
    by_id = {item.id: item for item in items}
    answered, notes = subject.respond(
        asked(items, subject.config), f"simpleqa {condition}", condition=condition, greedy=True
    )
    rows, samples = [], []
    retrieved = retrieval_columns(answered, condition, subject)
    for episode, columns in zip([one.episode for one in answered], retrieved, strict=True):
        item = by_id[episode.prompt.id]
        given = grade(episode.response, answers_of(item))
        rows.append(
            {
                "id": item.id,
                "group": item.group or item.id,
                "condition": condition,
                **{name: int(given == name) for name in GRADES},
                "attempted": int(given != NOT_ATTEMPTED),
                **columns,
            }
        )
        samples.append(sample_row("simpleqa", condition, episode, grade=given))
    notes.append("simpleqa: graded by a rule and not by the authors' grader.")
    return Measured(rows, samples[: subject.config.num_samples], notes)


def f_score(correct: np.ndarray, attempted: np.ndarray) -> float:
    """Return the harmonic mean of correct and correct given attempted. Args: (n,) of 0 and 1."""
    right, tried = float(correct.mean()), float(attempted.mean())
    return 2 * right / (1 + tried) if right else 0.0


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the share of each grade, of correct ones among the attempted, and `f`."""
    metrics: dict = {name: intervals.share(rows, name) for name in GRADES}
    tried = [row for row in rows if row["attempted"]]
    if tried:
        metrics["correct_given_attempted"] = intervals.share(tried, CORRECT)
        metrics["f"] = intervals.statistic(f_score, rows, (CORRECT, "attempted"), low=0.0)
    return known(metrics) | retrieval_metrics(rows, intervals)


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return the share of each grade."""
    better = {CORRECT: 1, INCORRECT: -1, NOT_ATTEMPTED: 0}
    grades = [Quantity(f"simpleqa_{name}_change", name, better=better[name]) for name in GRADES]
    return grades + retrieval_quantities("simpleqa_")


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/simpleqa_<metric>_<kind>_<condition>`."""
    return [f"eval/simpleqa_{metric}_{kind}_{condition}"]


BENCHMARK = Benchmark(
    name="simpleqa",
    items=ItemFormat({"simpleqa": ["question", "answers"]}),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=(*GRADES, "correct_given_attempted", "f", *metric_names()),
    headline=headline,
    both_conditions=True,
    folder=lambda config: config.simpleqa.path,
    per_group=lambda config: config.simpleqa.per_group,
    unit="questions",
    no_shots="SimpleQA has no train split, and its authors ask each question alone",
    signature=lambda config: f"grader:rule|tokens:{config.sampling.max_new_tokens}",
)
