"""HaluEval's item rows to metrics: what the judge scores, and what rules score on the same rows.

A row is one judged text (`correct`), one text that did not fit (`too_long`), or an answer of the
policy's own (`support`). Intervals count rows of the data, so that both sides of one go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.benchmarks.quantity import Quantity
from eval.intervals import Intervals, Metrics, Row, having, known

LONG_WORDS = 4
"""Words above which the rule for the QA task calls an answer hallucinated."""
SHOWN = ("accuracy", "auroc", "said_yes", "failure_rate")
"""How the judge's metrics end that a run shows beside those of the others."""


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the judge's scores and the rules' beside them, each name led by its task."""
    metrics: dict = {}
    for task in {row["task"]: None for row in rows}:
        own = [row for row in rows if row["task"] == task]
        judged = having(own, "correct")
        scored = {**judge_metrics(judged, intervals), **rule_metrics(judged, intervals)}
        scored |= known({"too_long": intervals.share(one_per_item(own), "too_long")})
        scored |= answer_metrics(having(own, "support"), intervals)
        metrics |= {f"{task}_{name}": interval for name, interval in scored.items()}
    return metrics


def judge_metrics(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return what a judge scores in one task; positive means hallucinated.

    Ties of a pair count half. Accuracy is stratified by the true label: the two sides of a row pull
    against each other (who always says Yes is right on exactly one), which makes it surer than as
    many independent texts. A failed judgement is wrong: it lowers accuracy, recall of a
    hallucinated text and MCC, where it counts as the wrong word, and is no Yes of which precision
    is a share. AUROC and pairs need log-odds of both sides.
    """
    if not rows:
        return {}
    truth = [row for row in rows if row["hallucinated"]]
    yes = [row for row in rows if row["said_yes"]]
    found = {
        "accuracy": intervals.label_share(rows, "correct", "hallucinated"),
        "balanced_accuracy": intervals.label_share(rows, "correct", "hallucinated", balanced=True),
        "precision": intervals.share(yes, "hallucinated"),
        "recall": intervals.share(truth, "said_yes"),
        "f1": intervals.statistic(f1, rows, ("said_yes", "hallucinated"), low=0.0),
        "mcc": intervals.statistic(mcc, rows, ("correct", "hallucinated"), low=-1.0),
        "auroc": intervals.auroc(having(rows, "score"), "score", "hallucinated"),
        "pair_accuracy": intervals.share(pairs(having(rows, "score"), "score"), "ordered"),
        "said_yes": intervals.share(rows, "said_yes"),
        "failure_rate": intervals.share(rows, "failed"),
    }
    return known(found)


def f1(said_yes: np.ndarray, hallucinated: np.ndarray) -> float:
    """Return F1 of Yes, 2 TP / (said Yes + hallucinated); 0 where neither occurs."""
    total = float(said_yes.sum() + hallucinated.sum())
    return 2 * float((said_yes * hallucinated).sum()) / total if total else 0.0


def mcc(correct: np.ndarray, hallucinated: np.ndarray) -> float:
    """Return Matthews' correlation of verdict and truth; 0 where either has one value only."""
    right, true = correct > 0.5, hallucinated > 0.5
    tp, tn = float((right & true).sum()), float((right & ~true).sum())
    fn, fp = float((~right & true).sum()), float((~right & ~true).sum())
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / spread**0.5 if spread else 0.0


def rule_metrics(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return what rules score that read no meaning.

    rule_longer: of a pair, the longer text (characters) is the hallucinated one. rule_verbatim: a
    text that does not stand in its source is hallucinated. rule_length: one of more than four words
    is (QA only). rule_always_no: nothing is.
    """
    ruled = [
        {
            **row,
            "rule_verbatim": int((not row["verbatim"]) == bool(row["hallucinated"])),
            "rule_length": int((row["words"] > LONG_WORDS) == bool(row["hallucinated"])),
            "rule_always_no": int(not row["hallucinated"]),
        }
        for row in rows
    ]
    names = ["rule_verbatim", "rule_always_no"]
    if all(row["task"] == "qa" for row in rows):
        names.append("rule_length")
    metrics = {name: intervals.label_share(ruled, name, "hallucinated") for name in names}
    metrics["rule_longer"] = intervals.share(pairs(rows, "characters"), "ordered")
    return known(metrics)


def answer_metrics(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return what became of the policy's own answers: their support, and its own judgement."""
    return known(
        {
            "answer_support": intervals.mean(
                [r for r in rows if r["support"] is not None], "support"
            ),
            "answer_holds_right": intervals.share(having(rows, "holds_right"), "holds_right"),
            "answer_judged_false": intervals.share(having(rows, "judged_false"), "judged_false"),
            "answer_empty": intervals.share(rows, "empty"),
        }
    )


def pairs(rows: Sequence[Row], column: str) -> list[dict[str, Any]]:
    """Return a row per item with both sides: `ordered` is 1 where the hallucinated side is higher
    in `column`, 0.5 where they tie.
    """
    sides: dict[str, dict[int, Row]] = {}
    for row in rows:
        sides.setdefault(row["item"], {})[row["hallucinated"]] = row
    ordered = []
    for item, both in sides.items():
        if len(both) == 2:
            right, wrong = both[0][column], both[1][column]
            value = 0.5 if right == wrong else float(wrong > right)
            ordered.append({"id": item, "group": both[0]["group"], "ordered": value})
    return ordered


def one_per_item(rows: Sequence[Row]) -> list[Row]:
    """Return the first row of each item that says whether it fits the context."""
    return list({row["item"]: row for row in reversed(having(rows, "too_long"))}.values())


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return the judge's accuracy in each task."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    return [Quantity(f"halueval_{t}_accuracy_change", "correct", {"task": t}, 1) for t in tasks]


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/halueval_<task>_<metric>_<kind>` of the judge's main scores."""
    shown = metric.endswith(SHOWN) and "_rule_" not in metric
    return [f"eval/halueval_{metric}_{kind}"] if shown else []
