"""Whether a claim holds: computed seed by seed, with the interval over seeds.

Both sides of a comparison are computed for each seed from runs of that seed, so what the seeds
share cancels, and their difference has Student's interval over seeds, from three on
(`plumbrule/report/repeats.py`). With tolerance t a comparison is

    holds    all of the interval lies on the right side: above -t for >, below t for <, in +-t for =
    near     the mean does, and the interval does not, or there is none
    fails    the mean does not

A claim of several comparisons is as good as its worst. It holds only if every seed that the paper's
file lists was measured: one that failed would be left out for its result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from plumbrule.papers.expressions import (
    ClaimExpression,
    Comparison,
    Value,
    evaluate,
    holds_references,
    parse,
)
from plumbrule.papers.paper import Paper, PaperClaim, PaperScale
from plumbrule.papers.runs_of_paper import DONE, NotKnown, PaperRun, runs_of_paper, value_of
from plumbrule.papers.sweep_words import missing_data
from plumbrule.report.repeats import FEWEST, Repeats, RunNumber
from plumbrule.statistics import Interval
from plumbrule.statistics.seeds import ROUNDING
from plumbrule.store.artifacts import Store

NOT_RUN, FAILS, NEAR, HOLDS = "not run", "fails", "near", "holds"
WORST_FIRST = (NOT_RUN, FAILS, NEAR, HOLDS)
"""Verdicts."""


class Part(NamedTuple):
    """One comparison of a claim. difference: left less right, its mean and interval over seeds.

    shift: what the right side is where it is a constant, by which the figure is told; else None.
    """

    text: str
    verdict: str
    difference: Interval
    shift: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the figure that is told, with n and how it is to be read."""
        told = self.difference if self.shift is None else self.difference.scaled(1.0, self.shift)
        what = "left - right" if self.shift is None else "left"
        rest = {"shown": what} if self.shift is None else {"shown": what, "right": self.shift}
        return {"text": self.text, "verdict": self.verdict, **told.as_json(), **rest}


class ClaimOutcome(NamedTuple):
    """What became of a claim. reason: why it was not run, or does not hold in spite of its mean."""

    claim: PaperClaim
    verdict: str
    reason: str = ""
    parts: Sequence[Part] = ()
    seeds: Sequence[int] = ()


class Checked(NamedTuple):
    """A scale of a paper against a store. runs: of all its cells, not only the done ones."""

    paper: Paper
    scale: PaperScale
    outcomes: Sequence[ClaimOutcome]
    runs: Sequence[PaperRun]

    @property
    def failed(self) -> list[ClaimOutcome]:
        """The claims that fail."""
        return [one for one in self.outcomes if one.verdict == FAILS]


def check_scale(paper: Paper, scale: str, store: Store) -> Checked:
    """Return what a store's runs say of each claim of a scale; nothing is run.

    Raises: ConfigError: an arm of the paper that can't be read.
    """
    own = paper.scales[scale]
    if own.unavailable:
        return Checked(paper, own, (), ())
    every = runs_of_paper(paper, own, store)
    return Checked(
        paper, own, [outcome_of(claim, own, every, store) for claim in own.claims], every
    )


def outcome_of(
    claim: PaperClaim, scale: PaperScale, every: Sequence[PaperRun], store: Store
) -> ClaimOutcome:
    """Return what became of one claim."""
    if not any(run.state == DONE for run in every):
        broken = [run for run in every if run.state == "failed"]
        reason = f"run {broken[0].name} failed" if broken else "no run of it is in the store"
        return ClaimOutcome(claim, NOT_RUN, missing_data(scale, ()) or reason)
    expression = parse(claim.expression, scale.definitions)
    measured: dict[int, list[tuple[float, float]]] = {}
    reasons: dict[int, str] = {}
    for seed in scale.seeds:
        try:
            measured[seed] = _sides(expression, every, seed, store)
        except NotKnown as error:
            reasons[seed] = str(error)
    if not measured:
        return ClaimOutcome(claim, NOT_RUN, next(iter(reasons.values())))
    odd = [seed for seed, sides in measured.items() if not np.isfinite(sides).all()]
    if odd:
        which = expression.comparisons[_first_odd(measured[odd[0]])].text
        reason = f"{which} is no finite number with seed {odd[0]}"
        return ClaimOutcome(claim, NOT_RUN, reason, (), list(measured))
    parts = [
        part_of(comparison, [sides[i] for sides in measured.values()], claim.tolerance)
        for i, comparison in enumerate(expression.comparisons)
    ]
    verdict = min((part.verdict for part in parts), key=WORST_FIRST.index)
    reason = _why(parts, len(measured)) if verdict == NEAR else ""
    if reasons:
        verdict = NEAR if verdict == HOLDS else verdict
        reason = f"{len(measured)} of {len(scale.seeds)} seeds: {next(iter(reasons.values()))}"
    return ClaimOutcome(claim, verdict, reason, parts, list(measured))


def part_of(comparison: Comparison, sides: Sequence[tuple[float, float]], tolerance: float) -> Part:
    """Return what became of one comparison, given (left, right) of each seed."""
    constant = None if holds_references(comparison.right) else sides[0][1]
    differences = [left - right for left, right in sides]
    largest = max(abs(side) for pair in sides for side in pair)
    if max(differences) - min(differences) <= ROUNDING * largest:
        differences = differences[:1] * len(differences)  # 0.9 - 0.7 and 0.8 - 0.6 are equal
    found = Repeats.of([RunNumber(one) for one in differences]).interval()
    told = verdict_of(comparison.op, found, tolerance)
    return Part(comparison.text, told, found, constant)


def verdict_of(op: str, difference: Interval, tolerance: float) -> str:
    """Return holds, near or fails for `left op right`, by left less right."""
    ends = [difference.value]
    if difference.is_bounded:
        ends += [difference.low, difference.high]
    right = [_is_right(op, end, tolerance) for end in ends]
    if not right[0]:
        return FAILS
    return HOLDS if difference.is_bounded and all(right) else NEAR


def _is_right(op: str, difference: float, tolerance: float) -> bool:
    if op == "==":
        return abs(difference) <= tolerance
    toward = difference if op[0] == ">" else -difference
    return toward >= -tolerance if op.endswith("=") else toward > -tolerance


def _sides(
    expression: ClaimExpression, every: Sequence[PaperRun], seed: int, store: Store
) -> list[tuple[float, float]]:
    """Return (left, right) of each comparison for one seed."""
    values: dict[int, Value] = {
        place: value_of(reference, every, seed, store)
        for place, reference in enumerate(expression.references)
    }
    try:
        return [
            (_number(evaluate(one.left, values), one), _number(evaluate(one.right, values), one))
            for one in expression.comparisons
        ]
    except ValueError:
        raise NotKnown(
            f"{expression.text} must put curves of one length together, and count points from 1"
        ) from None


def _number(value: Value, comparison: Comparison) -> float:
    if np.ndim(value) > 0:
        raise NotKnown(
            f"{comparison.text} must compare numbers; take last, mean or trend of a curve"
        )
    return float(value)


def _first_odd(sides: Sequence[tuple[float, float]]) -> int:
    return next(i for i, pair in enumerate(sides) if not all(map(math.isfinite, pair)))


def _why(parts: Sequence[Part], seeds: int) -> str:
    """Return why a claim whose mean is right does not hold."""
    if seeds < FEWEST:
        return f"{seeds} seed{'s' if seeds > 1 else ''}: no interval over seeds"
    open_ = [part for part in parts if part.verdict == NEAR]
    if not open_[0].difference.is_bounded:
        return open_[0].difference.reason
    return ""
