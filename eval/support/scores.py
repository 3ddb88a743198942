"""Measured support against people's labels: AUROC, response level and span level.

A response is called hallucinated where one of its sentences has less support than the threshold.
Span scores count characters of all responses together, as RAGTruth's tables do: precision is the
share of predicted characters that people marked, recall the share of marked ones that were
predicted. Beside them stands `always`, the F1 of calling every response hallucinated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eval.intervals import Intervals, Metrics, Row, groups, known
from eval.support.labelled import Labelled
from plumbrule.grounding.support import support, unsupported_spans
from plumbrule.statistics import Interval, jackknife_interval

Spans = Sequence[tuple[int, int]]


def item_row(one: Labelled, name: str, threshold: float) -> dict[str, Any]:
    """Return the row of a response: its support, what is predicted, and which characters agree."""
    predicted = unsupported_spans(one.response, one.evidence, threshold)
    row = {
        "id": one.id,
        "group": one.group,
        "condition": "closed",
        "set": name,
        "part": one.part,
        "hallucinated": int(one.hallucinated),
        "unsupported": 1 - support(one.response, one.evidence),
        "predicted": int(bool(predicted)),
        "words": len(one.response.split()),
    }
    if one.spans is not None:
        marked, said = characters(one.spans), characters(predicted)
        row |= {"marked_chars": len(marked), "predicted_chars": len(said)}
        row["shared_chars"] = len(marked & said)
    return row


def characters(spans: Spans) -> set[int]:
    """Return the places that spans cover; one that is covered twice counts once."""
    return {place for start, end in spans for place in range(start, end)}


def f1(shared: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return 2 shared / (predicted + truth) of sums over (n,) each; 0 where there is nothing."""
    both = float(predicted.sum() + truth.sum())
    return 2 * float(shared.sum()) / both if both else 0.0


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return AUROC, precision, recall and F1 of responses, and the same of spans where marked."""
    metrics: dict = {
        "auroc": intervals.auroc(rows, "unsupported", "hallucinated"),
        "auroc_longer": intervals.auroc(rows, "words", "hallucinated"),
        "hallucinated": intervals.share(rows, "hallucinated"),
    }
    predicted = [row for row in rows if row["predicted"]]
    real = [row for row in rows if row["hallucinated"]]
    metrics["precision"] = intervals.share(predicted, "hallucinated")
    metrics["recall"] = intervals.share(real, "predicted")
    hits = [row["predicted"] * row["hallucinated"] for row in rows]
    truth = [row["hallucinated"] for row in rows]
    metrics["f1"] = _f1(rows, hits, [row["predicted"] for row in rows], truth, intervals)
    metrics["f1_always"] = _f1(rows, truth, [1] * len(rows), truth, intervals)
    marked = [row for row in rows if "marked_chars" in row]
    if marked:
        shared, said, true = (
            [row[f"{name}_chars"] for row in marked] for name in ("shared", "predicted", "marked")
        )
        metrics["span_f1"] = _f1(marked, shared, said, true, intervals)
        for name, whole in (("span_precision", said), ("span_recall", true)):
            if any(whole):
                metrics[name] = _ratio(marked, shared, whole, intervals)
    return known(metrics)


def _f1(
    rows: Sequence[Row],
    shared: Sequence[float],
    predicted: Sequence[float],
    truth: Sequence[float],
    intervals: Intervals,
) -> Interval:
    columns = [np.array(c, dtype=float) for c in (shared, predicted, truth)]
    return _jackknife(f1, columns, rows, intervals)


def _ratio(
    rows: Sequence[Row], part: Sequence[float], whole: Sequence[float], intervals: Intervals
) -> Interval:
    def ratio(some: np.ndarray, every: np.ndarray) -> float:
        return float(some.sum() / every.sum()) if every.sum() else float("nan")

    columns = [np.array(c, dtype=float) for c in (part, whole)]
    return _jackknife(ratio, columns, rows, intervals)


def _jackknife(
    of: Callable[..., float],
    columns: Sequence[np.ndarray],
    rows: Sequence[Row],
    intervals: Intervals,
) -> Interval:
    found = jackknife_interval(of, columns, groups(rows), confidence=intervals.confidence)
    return found._replace(method="jackknife")
