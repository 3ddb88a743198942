"""Several annotators of one item: how far they agree, and one ranking made of theirs.

An *item* is a prompt, its passages and a set of answers, whatever their order; rankings of other
sets are other items. A ranking without a named annotator stands for itself, since nobody knows
whether two of them come from two people.

Rankings are merged by Borda's count: an answer's points are the other answers that it beats, a tie
counting a half, and the mean over annotators orders the answers (Borda 1784; axioms in Young 1974,
J. Economic Theory 9:43-52). Of two answers that is the majority's word. Copeland's rule, which only
counts whom a majority prefers, leaves most answers tied where two or three people judge. Borda's
price is that an answer which every other loses to by majority need not come first. All annotators
count alike: their own `confidence` is not weighed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from plumbrule.data.records import Preference
from plumbrule.errors import DataError

MERGES = ("majority", "soft", "separate")
"""What a data set may do with them; `separate` keeps every ranking and needs no `merge`."""


def item_of(preference: Preference) -> Hashable:
    """Return what rankings of one item share: the prompt, the passages and the set of answers."""
    return preference.messages, preference.passages, frozenset(preference.responses)


def merge(preferences: Sequence[Preference], how: str = "majority") -> list[Preference]:
    """Return one preference per item, in the order in which items first appear.

    Ranks are by Borda's count. `confidence` is the share of the annotators' ordered pairs that the
    ranks order alike (a merged tie agrees with none); `meta["annotators"]` names them. The rest is
    the first annotator's, but for `margin`, which goes. `scores` depend on `how`:

    - majority: none where several judged, since ratings of one person say nothing of the others;
      an item that one person judged stays as it is.
    - soft: the mean share of other answers that each answer beats, ties a half, in [0, 1]; also
      for an item that one person judged, so that all scores have one scale.

    Raises: DataError: an annotator ranks an item twice. ValueError: another `how`.
    """
    if how not in ("majority", "soft"):
        raise ValueError(f"how (={how}) must be majority or soft.")
    merged = []
    for labels in by_item(preferences):
        one = _merged(labels) if len(labels) > 1 else labels[0]
        if how == "soft":
            one = replace(one, scores=utilities(labels))
        merged.append(one)
    return merged


def by_item(preferences: Sequence[Preference]) -> list[list[Preference]]:
    """Return the rankings of each item, one per annotator; those without a name stand alone.

    Raises: DataError: an annotator ranks an item twice.
    """
    items: dict[Hashable, list[Preference]] = {}
    for place, preference in enumerate(preferences):
        key = item_of(preference) if preference.annotator else place
        labels = items.setdefault(key, [])
        if twice := [p.id for p in labels if p.annotator == preference.annotator]:
            raise DataError(
                f"annotator (={preference.annotator!r}) must label an item once, not in rows "
                f"{twice[0]!r} and {preference.id!r}; keep one of them."
            )
        labels.append(preference)
    return list(items.values())


def utilities(labels: Sequence[Preference]) -> tuple[float, ...]:
    """Return for each answer the mean share of the others that it beats, ties a half."""
    most = 2 * len(labels) * (len(labels[0].responses) - 1)
    return tuple(points / most for points in _points(labels))


def _points(labels: Sequence[Preference]) -> list[int]:
    """Return twice Borda's count of each answer of the first ranking, summed over annotators."""
    answers = labels[0].responses
    points = dict.fromkeys(answers, 0)
    for label in labels:
        ranked = list(zip(label.responses, label.ranks, strict=True))
        for answer, rank in ranked:
            # beating an answer gives 2, a tie 1; the tie of an answer with itself is taken off
            points[answer] += sum((rank < other) + (rank <= other) for _, other in ranked) - 1
    return [points[answer] for answer in answers]


def _merged(labels: Sequence[Preference]) -> Preference:
    first, points = labels[0], _points(labels)
    order = sorted(set(points), reverse=True)
    ranks = tuple(order.index(p) + 1 for p in points)
    better = {
        (first.responses[i], first.responses[j]) for i, j in replace(first, ranks=ranks).pairs()
    }
    stated = [(p.responses[i], p.responses[j]) for p in labels for i, j in p.pairs()]
    agreeing = sum(pair in better for pair in stated)
    return replace(
        first,
        ranks=ranks,
        scores=None,
        margin=None,
        annotator="",
        # none agrees only where all answers come out tied, and then there is no pair to trust
        confidence=agreeing / len(stated) if agreeing else 1.0,
        meta={**first.meta, "annotators": [p.annotator for p in labels]},
    )


def judged_by_several(preferences: Sequence[Preference]) -> list[list[Preference]]:
    """Return the rankings of each item that two or more named annotators judged.

    Raises: DataError: an annotator ranks an item twice.
    """
    return [labels for labels in by_item(preferences) if len(labels) > 1]


def krippendorff_alpha(preferences: Sequence[Preference]) -> float | None:
    """Return Krippendorff's alpha of the annotators; None where it is not defined.

    1: all agree; 0: as much as by chance; below: less. (Krippendorff 2004, Content Analysis, ch.
    11.) A unit is an ordered pair of answers of one item, and its value is 1, 0 or -1 as the
    annotator ranks the first above, beside or below the second; the difference of two values is
    squared. Ranks themselves would not do: a 2 is the last of two answers and nearly the first of
    nine. Every pair counts in both orders, so that the order of answers in a file is without
    influence; values are then symmetric about 0, for which the interval and the ordinal metric are
    the same. Not defined: no item with two annotators, or nothing but ties.

    Raises: DataError: an annotator ranks an item twice.
    """
    values: list[tuple[str, int, int]] = []
    unit = 0
    for labels in judged_by_several(preferences):
        answers = labels[0].responses
        ranks = [dict(zip(p.responses, p.ranks, strict=True)) for p in labels]
        for one in answers:
            for other in answers:
                if one != other:
                    values += (
                        (p.annotator, unit, (r[one] < r[other]) - (r[one] > r[other]))
                        for p, r in zip(labels, ranks, strict=True)
                    )
                    unit += 1
    if not any(value for *_, value in values):
        return None
    from nltk.metrics import interval_distance  # seconds to import, so only where needed
    from nltk.metrics.agreement import AnnotationTask

    return float(AnnotationTask(values, distance=interval_distance).alpha())
