"""Texts with one label each, chosen by the policy as the likeliest of the file's labels.

Each label is scored as an answer to the text, per byte of the label, since labels differ in length;
the text itself must say what is asked. `accuracy`; precision, recall and F1 as macro means over the
labels that the texts have (a label that is never predicted has precision 0, and so F1 0). With one
label a text, micro precision, recall and F1 all are accuracy, and are not repeated. The confusion
matrix is given by rows: `<label>_as_<label>` is the share of the first one's texts that are given
the second. Beside accuracy stands `majority`, of always choosing the commonest label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.multiple_choice.likelihood import prompt_signature, score_choices
from eval.benchmarks.multiple_choice.truthfulqa import question_of
from eval.benchmarks.quantity import Quantity
from eval.config import EvalConfig
from eval.few_shot import Shot
from eval.intervals import Intervals, Metrics, Row, groups, known
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.errors import DataError
from plumbrule.statistics import jackknife_interval
from plumbrule.statistics.intervals import point

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

MACRO = ("precision", "recall", "f1")


def label_of(item: BenchmarkItem) -> str:
    """Return an item's label. Raises: DataError: it has none."""
    label = item.fields.get("label")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"item {item.id!r}: label (={label!r:.40}) must be text; repair the row.")
    return label.strip()


def labels_of(items: Sequence[BenchmarkItem]) -> list[str]:
    """Return the labels that the items have, sorted. Raises: DataError: fewer than two."""
    labels = sorted({label_of(item) for item in items})
    if len(labels) < 2:
        raise DataError(f"labels (={', '.join(labels)}) must be at least two; add rows of another.")
    return labels


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return the texts as chats. Raises: DataError: as `labels_of`, or an item without text."""
    labels_of(items)
    return [Prompt(item.id, (Message("user", question_of(item)),)) for item in items]


def example(item: BenchmarkItem) -> Shot:
    """Return a text with its label. Raises: DataError: as `label_of`, or no text."""
    return Shot(question_of(item), label_of(item))


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return a row per text with `label`, `predicted` and `correct`.

    Raises: DataError: as `asked`.
    """
    labels, questions = labels_of(items), [question_of(item) for item in items]
    what = "classification closed"
    shots = subject.examples("classification", items)
    scored, notes = score_choices(subject, questions, [labels] * len(items), what, shots)
    rows, samples = [], []
    for place, choices in scored.items():
        item = items[place]
        best = max(range(len(labels)), key=[c.per_byte for c in choices].__getitem__)
        row: dict[str, Any] = {
            "id": item.id,
            "group": item.group or item.id,
            "condition": condition,
            "label": label_of(item),
            "predicted": labels[best],
            "correct": int(labels[best] == label_of(item)),
        }
        rows.append(row)
        samples.append(
            {
                "id": item.id,
                "benchmark": "classification",
                "condition": condition,
                "prompt": questions[place],
                "passages": [],
                "response": labels[best],
                "correct": row["correct"],
            }
        )
    return Measured(rows, samples[: subject.config.num_samples], notes)


def macro(which: str, true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over the true labels of their precision, recall or F1.

    Args: which: of `MACRO`. true, predicted: (n,) numbers of labels.
    """
    found = []
    for label in np.unique(true):
        hits = float(np.sum((true == label) & (predicted == label)))
        said, real = float(np.sum(predicted == label)), float(np.sum(true == label))
        parts = {
            "precision": hits / said if said else 0.0,
            "recall": hits / real,
            "f1": 2 * hits / (said + real),
        }
        found.append(parts[which])
    return float(np.mean(found))


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return accuracy, the macro means, the majority's accuracy and the confusion matrix."""
    if not rows:
        return {}
    names = sorted({row[column] for row in rows for column in ("label", "predicted")})
    columns = [
        np.array([names.index(row[column]) for row in rows], float)
        for column in ("label", "predicted")
    ]
    metrics: dict = {"accuracy": intervals.share(rows, "correct")}
    for which in MACRO:
        metrics[f"macro_{which}"] = jackknife_interval(
            _macro_of(which), columns, groups(rows), confidence=intervals.confidence
        )._replace(method="jackknife")
    commonest = Counter(row["label"] for row in rows).most_common(1)[0][1]
    metrics["majority"] = point(commonest / len(rows), len(rows))
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == label]
        for other in names:
            told = [{**row, "as": int(row["predicted"] == other)} for row in own]
            metrics[f"{label}_as_{other}"] = intervals.share(told, "as")
    return known(metrics)


def _macro_of(which: str) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda true, predicted: macro(which, true, predicted)


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return accuracy."""
    return [Quantity("classification_accuracy_change", "correct", better=1)]


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/classification_<metric>_<kind>` of accuracy and the macro means."""
    shown = metric == "accuracy" or metric.startswith("macro_")
    return [f"eval/classification_{metric}_{kind}"] if shown else []


BENCHMARK = Benchmark(
    name="classification",
    items=ItemFormat({"classification": ["question", "label"]}),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=("accuracy", "macro_precision", "macro_recall", "macro_f1", "majority", "*_as_*"),
    headline=headline,
    folder=lambda config: config.classification.path,
    per_group=lambda config: config.classification.per_group,
    unit="texts",
    example=example,
    train_split=lambda config: config.classification.shots,
    signature=prompt_signature,
)
