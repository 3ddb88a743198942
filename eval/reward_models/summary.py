"""Item rows of a set to its metrics, each with an interval over prompts and the rules beside it.

Names of the metrics of a set: `accuracy`; `<subset>_accuracy` where it has subsets; of RewardBench
2 `ties_score` and `score`, the mean over its subsets, each counting alike; of RM-Bench `hard`,
`normal`, `easy` and `accuracy`, the mean over its domains, each counting alike (both kinds of
safety are one domain), and `<domain>_hard` and so on. `_longer` and `_first` behind a name are the
rules'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.intervals import Intervals, Metrics, Row, known
from eval.reward_models.formulas import ties_score
from eval.reward_models.item_rows import RULES
from eval.reward_models.rankings import STYLES, TIES
from plumbrule.statistics import Interval, jackknife_interval

SUFFIXES = ("", *(f"_{rule}" for rule in RULES))
DIFFICULTIES = ("hard", "normal", "easy", "accuracy")


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the metrics of one set."""
    protocols = {row["protocol"] for row in rows}
    if protocols == {STYLES}:
        return known(_styles(rows, intervals))
    metrics: dict[str, Interval | None] = {}
    for suffix in SUFFIXES:
        column = f"accuracy{suffix}"
        parts: dict[str, Interval] = {}
        for subset, own in _by(rows, "subset").items():
            if own[0]["protocol"] == TIES:
                found = _ties(own, suffix, intervals)
                metrics |= found
                if f"ties_score{suffix}" in found:
                    parts[subset] = found[f"ties_score{suffix}"]
            elif (share := intervals.share(own, column)) is not None:
                parts[subset] = share
                if subset:
                    metrics[f"{subset}_{column}"] = share
        plain = [row for row in rows if row["protocol"] != TIES]
        metrics[column] = intervals.share(plain, column)
        if len(parts) > 1 and all(name != "" for name in parts):
            metrics[f"score{suffix}"] = mean_of_parts(list(parts.values()))
    return known(metrics)


def mean_of_parts(parts: Sequence[Interval]) -> Interval:
    """Return the mean of subsets that have no prompt in common, each counting alike.

    Bounds recover each subset's variance from its own interval (MOVER; Zou and Donner 2008,
    Statist. Med. 27:1693). There are none where a subset has none.
    """
    value = float(np.mean([part.value for part in parts]))
    n, groups = sum(part.n for part in parts), sum(part.groups or part.n for part in parts)
    unbounded = next((part for part in parts if not part.is_bounded), None)
    if unbounded is not None:
        return unbounded._replace(value=value, n=n, groups=groups)
    below = math.hypot(*(part.value - part.low for part in parts)) / len(parts)
    above = math.hypot(*(part.high - part.value for part in parts)) / len(parts)
    return Interval(value, value - below, value + above, n, groups, method="stratified")


def _styles(rows: Sequence[Row], intervals: Intervals) -> dict[str, Interval | None]:
    """Return RM-Bench's metrics; a domain is the part of a subset's name before its first `-`."""
    told = [{**row, "domain": row["subset"].partition("-")[0]} for row in rows]
    metrics: dict[str, Interval | None] = {}
    for suffix in SUFFIXES:
        for name in DIFFICULTIES:
            column = f"{name}{suffix}"
            several = len({row["domain"] for row in told}) > 1
            metrics[column] = intervals.label_share(told, column, "domain", balanced=several)
            for domain, own in _by(told, "domain").items():
                if domain:
                    metrics[f"{domain}_{column}"] = intervals.share(own, column)
    return metrics


def _ties(rows: Sequence[Row], suffix: str, intervals: Intervals) -> dict[str, Interval]:
    """Return the score of RewardBench 2's ties subset, and both accuracies that it is made of.

    The interval leaves questions out one block after the other, each with its reference question.
    """
    sides = {
        kind: {row["question"]: row for row in rows if row["kind"] == kind}
        for kind in ("ref", "tied")
    }
    metrics = {
        f"ties_{kind}_accuracy{suffix}": share
        for kind, own in sides.items()
        if (share := intervals.share(list(own.values()), f"accuracy{suffix}")) is not None
    }
    both = [name for name in sides["tied"] if name in sides["ref"]]
    if both:
        columns: list[list[float]] = [
            [float(sides[kind][name][f"{column}{suffix}"]) for name in both]
            for column, kind in (
                ("accuracy", "tied"),
                ("accuracy", "ref"),
                ("gap", "tied"),
                ("gap", "ref"),
                ("spread", "tied"),
            )
        ]
        metrics[f"ties_score{suffix}"] = jackknife_interval(
            ties_score, columns, both, confidence=intervals.confidence
        )._replace(method="jackknife")
    return metrics


def _by(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Return the rows by their value of a column, in order of appearance."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row[column], []).append(row)
    return parts


def agreement_rows(
    labels: Sequence[Sequence[Any]], verdicts: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return a row for each item that several people ranked: how far it, and they, agree.

    `with_people`: share of people and ordered pairs in which the model's order is theirs;
    `among_people`: the same between two people, over all couples of them. A pair that either ties
    counts half.

    Args: labels: per item the `Tested` rankings of its annotators, which have the same answers.
        verdicts: text of an answer -> score, prefixed by the item's group.
    """
    rows = []
    for people in labels:
        orders = [_order(one) for one in people]
        texts = sorted(people[0].preference.responses)
        pairs = [(a, b) for i, a in enumerate(texts) for b in texts[i + 1 :]]
        group = people[0].group
        model = {text: -verdicts[f"{group}\n{text}"] for text in texts}
        with_people = [_alike(model, order, a, b) for order in orders for a, b in pairs]
        among = [
            _alike(one, other, a, b)
            for k, one in enumerate(orders)
            for other in orders[k + 1 :]
            for a, b in pairs
        ]
        rows.append(
            {
                "id": people[0].preference.id,
                "group": group,
                "with_people": float(np.mean(with_people)),
                "among_people": float(np.mean(among)),
            }
        )
    return rows


def _order(one: Any) -> dict[str, float]:
    preference = one.preference
    return dict(zip(preference.responses, map(float, preference.ranks), strict=True))


def _alike(one: Mapping[str, float], other: Mapping[str, float], a: str, b: str) -> float:
    """Return 1 where two orders (lower is better) agree on a and b, 0.5 where one of them ties."""
    return float(np.sign(one[a] - one[b]) * np.sign(other[a] - other[b]) + 1) / 2
