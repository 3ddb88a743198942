"""From people's judgements to one ranking per question, and how far people agree.

A question that someone can't judge goes on with the others' rankings; without any it is left out.
Rankings are merged as those of a data set (`plumbrule/data/annotators.py`). A question that is
asked again only measures: its second ranking is in none of the merged ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from plumbrule.data.annotators import krippendorff_alpha, merge
from plumbrule.data.records import Preference
from rlhf.feedback.people.judgements import AnnotatorJudgements
from rlhf.feedback.people.questions import LabellingQuestion
from rlhf.feedback.rankings import count_alike


class MergedRankings(NamedTuple):
    """Question -> merged ranking, of those that have one; and what is measured of the people."""

    rankings: dict[str, Preference]
    metrics: dict[str, float]


def verdicts(
    questions: Sequence[LabellingQuestion], said: Mapping[str, AnnotatorJudgements]
) -> MergedRankings:
    """Return what the annotators of `said`, who judged every question, make of them together."""
    labels = [
        [_preference(q, name, ranks) for name in sorted(said) if (ranks := said[name][q.id].ranks)]
        for q in questions
        if q.repeats is None
    ]
    rankings = {own[0].id: merge(own)[0] for own in labels if own}
    metrics = {
        "feedback/annotators": float(len(said)),
        "feedback/cant_say": float(sum(len(said) - len(own) for own in labels)),
    }
    alpha = krippendorff_alpha([p for own in labels for p in own])
    if alpha is not None:
        metrics["feedback/alpha"] = alpha
    again = agreement(
        (own[q.repeats].ranks, own[q.id].ranks)
        for own in said.values()
        for q in questions
        if q.repeats
    )
    return MergedRankings(
        rankings, metrics | ({} if again is None else {"feedback/self_agreement": again})
    )


def agreement(twice) -> float | None:
    """Return the share of pairs of answers judged alike by two rankings (above, tied, below)."""
    counts = [count_alike(a, b) for a, b in twice if a is not None and b is not None]
    return sum(same for same, _ in counts) / sum(n for _, n in counts) if counts else None


def _preference(question: LabellingQuestion, annotator: str, ranks: tuple[int, ...]) -> Preference:
    return Preference(
        id=question.id,
        messages=question.messages,
        responses=question.answers,
        ranks=ranks,
        passages=question.passages,
        annotator=annotator,
    )
