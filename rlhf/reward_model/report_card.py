"""What is known of a reward model before a policy is trained against it.

All numbers are of held-out rankings, over all their pairs at once and not averaged over batches,
each with its interval and n; intervals count prompts, since pairs of one prompt share answers.

* `accuracy`: share of pairs whose better answer scores higher, and `loss` in nats.
* `noise_free`: where the data carry the labeller's utilities without noise, accuracy against
  these, beside the rules on the same pairs (`best_rule` is the best of them or of their opposites)
  and by kind of difference: a right against a wrong answer, and pairs that differ in support, in
  admitting not knowing, or in nothing but brevity or courtesy.
* `learned_length_taste`: utility per ten words by which the model prefers the longer of answers of
  equal utility: the slope of its score on words over that on utility.
* `ece`: is a pair that the model holds 80 % sure right in 80 % of cases? It is above 0 by chance:
  `ece_if_calibrated` is what a calibrated model as sure as this one would show, `ece_debiased`
  the error without that part. `reliability` is the same as ten bins, which the report draws.
* `length_correlation`: Spearman, score against words. Far from 0, the policy will learn to talk.
  `length_correlation_given_utility`: the same between answers of equal utility, where it is known
  (partial rank correlation): what length earns by itself.
* `utility_correlation`: Spearman, score against the utility without noise, where that is known.
* `rules`: accuracy of a few rules that need no model. A reward model that hardly beats one of them
  has learnt little else.
* `by_margin`: accuracy by how far the annotator's scores lie apart, in quarters of the pairs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from plumbrule.data.records import Preference
from plumbrule.statistics import (
    Interval,
    calibration,
    calibration_bins,
    correlation_interval,
    jackknife_interval,
    mean_interval,
    share_interval,
    spearman,
    spearman_interval,
)

NUM_MARGIN_BINS = 4
COURTEOUS = re.compile(
    r"\b(please|thanks?|sorry|welcome|glad|happy to|certainly|of course|kindly|pleasure|hope)\b",
    re.IGNORECASE,
)
UNKNOWING = re.compile(
    r"\b(do not|don't|cannot|can't|could not|couldn't) (know|say|tell|find|answer)\b"
    r"|\bnot (sure|certain|known)\b|\bunknown\b|\bno (information|record)\b",
    re.IGNORECASE,
)
RULES: Mapping[str, Callable[[str], float]] = {
    "longer": lambda text: len(text.split()),
    "courteous": lambda text: bool(COURTEOUS.search(text)),
    "says_unknown": lambda text: bool(UNKNOWING.search(text)),
}
"""Rule -> feature of an answer; the answer with the higher feature is guessed to be better."""


DIFFERENCES = ("right_wrong", "supported", "admits", "brief", "polite")
"""Kinds of difference between two answers, where the terms of their utility are known."""


class ScoredRanking(NamedTuple):
    """A held-out ranking and the raw score of each of its answers; None = it did not fit."""

    preference: Preference
    scores: tuple[float | None, ...]

    def pairs(self) -> list[tuple[int, int]]:
        """Return the (better, worse) pairs whose answers both have a score."""
        return [
            (i, j)
            for i, j in self.preference.pairs()
            if self.scores[i] is not None and self.scores[j] is not None
        ]


def report_card(rankings: Sequence[ScoredRanking]) -> dict[str, Any]:
    """Return the numbers above, nested; each is {"value", "low", "high", "n", "groups"}, and
    "reason" where bounds are not known.

    Raises: ValueError: the rankings hold no pair.
    """
    pairs = [(r, i, j) for r in rankings for i, j in r.pairs()]
    if not pairs:
        raise ValueError("rankings must hold at least one scored pair.")
    groups = [r.preference.messages for r, _, _ in pairs]
    gaps = np.array([r.scores[i] - r.scores[j] for r, i, j in pairs], dtype=np.float64)  # type: ignore[operator]
    losses = np.logaddexp(0.0, -gaps)
    return {
        "accuracy": order_accuracy(gaps, groups).as_json(),
        **_noise_free(pairs, gaps),
        **_learned_taste(rankings),
        "loss": mean_interval(losses, groups).as_json(),
        **_calibration(gaps, groups),
        "reliability": [bin._asdict() for bin in calibration_bins(*_sureness(gaps))],
        "length_correlation": _length_correlation(rankings),
        **_given_utility(rankings),
        "rules": {
            name: order_accuracy(_feature_gaps(pairs, feature), groups).as_json()
            for name, feature in RULES.items()
        },
        "by_margin": _by_margin(pairs, gaps),
        "num_prompts": len(set(groups)),
    }


def order_accuracy(gaps: np.ndarray, groups: Sequence) -> Interval:
    """Return the share of `gaps` (n,) above 0, a gap of 0 counted half: a guess by coin."""
    return share_interval((np.sign(gaps) + 1) / 2, groups)


def _calibration(gaps: np.ndarray, groups: Sequence) -> dict[str, Any]:
    """Return `ece` and its two companions: sigmoid(|gap|) is the model's sureness of a pair."""
    found = calibration(*_sureness(gaps), groups)
    return {
        "ece": found.error.as_json(),
        "ece_if_calibrated": found.if_calibrated.as_json(),
        "ece_debiased": found.debiased.as_json(),
    }


def _sureness(gaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how sure the model is of each pair's order, in [0.5, 1], and whether it is right."""
    return 1 / (1 + np.exp(-np.abs(gaps))), (np.sign(gaps) + 1) / 2


def _length_correlation(rankings: Sequence[ScoredRanking]) -> dict[str, Any]:
    answers = [
        (score, len(text.split()), r.preference.messages)
        for r in rankings
        for text, score in zip(r.preference.responses, r.scores, strict=True)
        if score is not None
    ]
    scores, words, groups = zip(*answers, strict=True)
    return spearman_interval(np.array(scores), np.array(words), groups).as_json()


def _given_utility(rankings: Sequence[ScoredRanking]) -> dict[str, Any]:
    """Return the correlations that need utilities; nothing where there are none."""
    answers = [
        (score, utility, len(text.split()), r.preference.messages)
        for r in rankings
        if (known := r.preference.utilities) is not None
        for score, utility, text in zip(r.scores, known, r.preference.responses, strict=True)
        if score is not None
    ]
    if len({group for *_, group in answers}) < 2:
        return {}
    *numbers, groups = zip(*answers, strict=True)
    scores, utilities, words = (np.array(column, dtype=np.float64) for column in numbers)
    return {
        "length_correlation_given_utility": correlation_interval(
            _partial_spearman, [scores, words, utilities], groups
        ).as_json(),
        "utility_correlation": spearman_interval(scores, utilities, groups).as_json(),
    }


def _partial_spearman(a: np.ndarray, b: np.ndarray, held: np.ndarray) -> float:
    """Return the rank correlation of a and b (n,) with that of each to `held` taken out."""
    ab, ah, bh = spearman(a, b), spearman(a, held), spearman(b, held)
    rest = (1 - ah**2) * (1 - bh**2)
    return (ab - ah * bh) / math.sqrt(rest) if rest > 1e-12 else math.nan


def _feature_gaps(pairs: Sequence[tuple], feature: Callable[[str], float]) -> np.ndarray:
    texts = [(r.preference.responses[i], r.preference.responses[j]) for r, i, j in pairs]
    return np.array([float(feature(a)) - float(feature(b)) for a, b in texts])


def _noise_free(pairs: Sequence[tuple], gaps: np.ndarray) -> dict[str, Any]:
    """Return accuracies against the utilities, over the pairs that these order strictly."""
    known = [
        (r, i, j, gap) if u[i] > u[j] else (r, j, i, -gap)
        for (r, i, j), gap in zip(pairs, gaps, strict=True)
        if (u := r.preference.utilities) is not None and u[i] != u[j]
    ]
    if not known:
        return {}

    def accuracy(signed: Sequence[float] | np.ndarray, of: Sequence[tuple]) -> Interval:
        return order_accuracy(np.array(signed), [r.preference.messages for r, *_ in of])

    ordered = [(r, i, j) for r, i, j, _ in known]
    rules = {
        name: accuracy(sign * _feature_gaps(ordered, feature), ordered)
        for rule, feature in RULES.items()
        for name, sign in ((rule, 1), (f"not {rule}", -1))
    }
    best = max(rules, key=lambda name: rules[name].value)
    kinds: dict[str, list[tuple]] = {}
    for row in known:
        for kind in differences(*row[:3]):
            kinds.setdefault(kind, []).append(row)
    by_difference = {
        kind: accuracy([gap for *_, gap in kinds[kind]], kinds[kind]).as_json()
        for kind in DIFFERENCES
        if kind in kinds
    }
    return {
        "noise_free": {
            "accuracy": accuracy([gap for *_, gap in known], known).as_json(),
            "best_rule": {"rule": best, **rules[best].as_json()},
            "by_difference": by_difference,
        }
    }


def differences(ranking: ScoredRanking, i: int, j: int) -> list[str]:
    """Return the kinds of difference between answers i and j; none where no terms are known."""
    terms = ranking.preference.terms
    if terms is None:
        return []
    gaps = {name: values[i] - values[j] for name, values in terms.items()}
    found = []
    if gaps.get("right") and gaps.get("wrong"):
        found.append("right_wrong")
    found += [kind for kind in ("supported", "admits") if gaps.get(kind)]
    found += [
        kind
        for kind in ("brief", "polite")
        if gaps.get(kind) and not any(gap for name, gap in gaps.items() if name != kind)
    ]
    return found


def _learned_taste(rankings: Sequence[ScoredRanking]) -> dict[str, Any]:
    """Return the slope of scores on words / 10 over that on utility, within prompts."""
    rows, groups = [], []
    for ranking in rankings:
        preference = ranking.preference
        utilities = preference.utilities
        scored = [k for k, score in enumerate(ranking.scores) if score is not None]
        if utilities is None or len(scored) < 2:
            continue
        words = [len(preference.responses[k].split()) / 10 for k in scored]
        values: list[list[Any]] = [
            [ranking.scores[k], utilities[k], w] for k, w in zip(scored, words, strict=True)
        ]
        rows += list(np.array(values) - np.mean(values, axis=0))
        groups += [preference.messages] * len(scored)
    if len(set(groups)) < 2:
        return {}
    columns = list(np.array(rows).T)

    def slope(scores: np.ndarray, utility: np.ndarray, words: np.ndarray) -> float:
        (on_utility, on_words), *_ = np.linalg.lstsq(np.stack([utility, words], 1), scores)
        return float(on_words / on_utility) if abs(on_utility) > 1e-9 else math.nan

    if math.isnan(slope(*columns)):
        return {}
    return {"learned_length_taste": jackknife_interval(slope, columns, groups).as_json()}


def _by_margin(pairs: Sequence[tuple], gaps: np.ndarray) -> list[dict[str, Any]]:
    """Return accuracy in quarters of the pairs by the gap between the annotator's scores."""
    scored = [
        (s[i] - s[j], gap, r.preference.messages)
        for (r, i, j), gap in zip(pairs, gaps, strict=True)
        if (s := r.preference.scores) is not None
    ]
    if len(scored) < NUM_MARGIN_BINS:
        return []
    scored.sort(key=lambda item: item[0])
    bins = []
    for part in np.array_split(np.arange(len(scored)), NUM_MARGIN_BINS):
        inside = [scored[k] for k in part]
        accuracy = order_accuracy(np.array([gap for _, gap, _ in inside]), [g for *_, g in inside])
        bins.append({"from": inside[0][0], "to": inside[-1][0], "accuracy": accuracy.as_json()})
    return bins
