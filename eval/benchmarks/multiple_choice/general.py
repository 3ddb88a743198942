"""Any questions with given answers of which one is right, such as those of ARC, MMLU or HellaSwag.

The policy's choice is the likeliest answer: by the whole answer (`accuracy`), by its log-likelihood
per token (`accuracy_per_token`) or per byte (`accuracy_per_byte`). The whole answer favours short
ones. The answers are not shown with the question. `rule_longest` and `rule_first` choose without a
model, and `chance` at random. Ties share the point.

With `meta.subject`, accuracy is given of each subject too.

`confidence` is the probability of the chosen answer among those given (by the whole answer), and
`ece` whether that comes true as often as it says: the expected calibration error, beside what a
calibrated policy would show and the error without that part
(`plumbrule/statistics/calibration.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.contamination import contamination_notes
from eval.benchmarks.multiple_choice.likelihood import prompt_signature, score_choices, top_share
from eval.benchmarks.multiple_choice.truthfulqa import question_of
from eval.benchmarks.quantity import Quantity
from eval.config import EvalConfig
from eval.few_shot import Shot
from eval.intervals import Intervals, Metrics, Row, groups, having, known, values
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.errors import DataError
from plumbrule.statistics import calibration

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

COLUMNS = {
    "accuracy": "correct",
    "accuracy_per_token": "correct_per_token",
    "accuracy_per_byte": "correct_per_byte",
    "chance": "chance",
    "rule_longest": "rule_longest",
    "rule_first": "rule_first",
}
"""Metric -> column."""
SURENESS = ("confidence", "ece", "ece_if_calibrated", "ece_debiased")
NATS, NUM_BINS = "nats", 10


def choices_of(item: BenchmarkItem) -> tuple[list[str], int]:
    """Return an item's answers and the place of the right one.

    Raises: DataError: fewer than two, two alike, one without text, or no such place.
    """
    choices, answer = item.fields.get("choices"), item.fields.get("answer")
    fits = isinstance(choices, list) and all(isinstance(c, str) and c.strip() for c in choices)
    if (
        not isinstance(choices, list)
        or not fits
        or len(choices) < 2
        or len({c.strip() for c in choices}) < len(choices)
    ):
        raise DataError(
            f"item {item.id!r}: choices (={choices!r:.80}) must be a list of at least two different"
            " texts; repair the row."
        )
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise DataError(
            f"item {item.id!r}: answer (={answer!r:.80}) must be the place of a choice, 0 to "
            f"{len(choices) - 1}; repair the row."
        )
    return [c.strip() for c in choices], answer


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return the questions as chats. Raises: DataError: as `choices_of`, or no question."""
    for item in items:
        choices_of(item)
    return [Prompt(item.id, (Message("user", question_of(item)),)) for item in items]


def example(item: BenchmarkItem) -> Shot:
    """Return an item with its right answer. Raises: DataError: as `choices_of`, or no question."""
    choices, answer = choices_of(item)
    return Shot(question_of(item), choices[answer])


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return a row per question with the columns of `COLUMNS`, `subject`, the place of the right
    `answer`, and the `nats` and `bytes` of each answer.

    Raises: DataError: as `asked`.
    """
    questions, given = [question_of(item) for item in items], [choices_of(item) for item in items]
    texts = [choices for choices, _ in given]
    shots = subject.examples("multiple_choice", items)
    scored, notes = score_choices(subject, questions, texts, "multiple_choice closed", shots)
    rows, samples = [], []
    for place, choices in scored.items():
        item, right = items[place], given[place][1]
        row: dict[str, Any] = {
            "id": item.id,
            "group": item.group or item.id,
            "condition": condition,
            "subject": str(item.meta.get("subject", "")),
            "correct": top_share([c.nats for c in choices], right),
            "correct_per_token": top_share([c.per_token for c in choices], right),
            "correct_per_byte": top_share([c.per_byte for c in choices], right),
            "chance": 1 / len(choices),
            "rule_longest": top_share([float(len(text)) for text in texts[place]], right),
            "rule_first": int(right == 0),
            "answer": right,
            NATS: [c.nats for c in choices],
            "bytes": [c.bytes for c in choices],
        }
        rows.append(row)
        likeliest = max(range(len(choices)), key=lambda i: scored[place][i].nats)
        samples.append(
            {
                "id": item.id,
                "benchmark": "multiple_choice",
                "condition": condition,
                "prompt": questions[place],
                "passages": [],
                "response": texts[place][likeliest],
                "correct": row["correct"],
            }
        )
    notes += contamination_notes("multiple_choice", questions, subject.policy.source)
    return Measured(rows, samples[: subject.config.num_samples], notes)


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the metrics of `COLUMNS` and `SURENESS`, and `<subject>_accuracy` where items name
    subjects.
    """
    metrics: dict = {name: intervals.share(rows, column) for name, column in COLUMNS.items()}
    metrics["chance"] = intervals.mean(rows, "chance")
    metrics |= sureness(having(rows, NATS), intervals)
    for subject in dict.fromkeys(row["subject"] for row in rows if row["subject"]):
        own = [row for row in rows if row["subject"] == subject]
        metrics[f"{subject}_accuracy"] = intervals.share(own, "correct")
    return known(metrics)


def sureness(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the metrics of `SURENESS`; none without rows.

    Args: rows: with `nats` and `correct`, the share of the point where the likeliest answers tie.
    """
    if not rows:
        return {}
    told = [{**row, "sure": probability_of_likeliest(row[NATS])} for row in rows]
    probabilities, right = values(told, "sure"), values(told, "correct")
    found = calibration(
        probabilities,
        right,
        groups(told),
        num_bins=NUM_BINS,
        confidence=intervals.confidence,
        seed=intervals.seed,
    )
    method = f"{NUM_BINS} bins"
    return known(
        {
            "confidence": intervals.mean(told, "sure"),
            "ece": found.error._replace(method=method),
            "ece_if_calibrated": found.if_calibrated._replace(method=f"{method}, drawn"),
            "ece_debiased": found.debiased._replace(method=method),
        }
    )


def probability_of_likeliest(nats: Sequence[float]) -> float:
    """Return the probability of the likeliest answer where one of those given is certain.

    Args: nats: log-likelihood of each answer. Two answers 1 nat apart: 1 / (1 + exp(-1)) = .731.
    """
    best = max(nats)
    return 1 / sum(math.exp(value - best) for value in nats)


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return accuracy by the whole answer and per byte."""
    return [
        Quantity("multiple_choice_accuracy_change", "correct", better=1),
        Quantity("multiple_choice_accuracy_per_byte_change", "correct_per_byte", better=1),
    ]


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/multiple_choice_<metric>_<kind>` of the policy's scores over all subjects."""
    return [f"eval/multiple_choice_{metric}_{kind}"] if metric.startswith("accuracy") else []


BENCHMARK = Benchmark(
    name="multiple_choice",
    items=ItemFormat({"multiple_choice": ["question", "choices", "answer"]}),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=(*COLUMNS, *SURENESS, "*_accuracy"),
    headline=headline,
    folder=lambda config: config.multiple_choice.path,
    per_group=lambda config: config.multiple_choice.per_group,
    unit="questions",
    example=example,
    train_split=lambda config: config.multiple_choice.shots,
    signature=prompt_signature,
)
