"""Scores of a set's answers to item rows: one a ranking, or one a pair of plain rankings.

The model's scores and those of the two rules go through the same formulas, so that what stands
beside a model is measured as it is: `longer` scores an answer by its characters, `first` gives the
answer that is shown first 1 and the others 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.reward_models.formulas import best_of, pair_share, style_matrix, tie_facts
from eval.reward_models.rankings import BEST_OF, STYLES, TIES, Tested
from plumbrule.data.records import Preference
from plumbrule.errors import DataError

RULES = ("longer", "first")
Scores = Sequence[float]


def rule_scores(ranking: Tested, seed: int) -> dict[str, list[float]]:
    """Return each rule's scores of a ranking's answers."""
    responses = ranking.preference.responses
    first = ranking.first(seed)
    return {
        "longer": [float(len(text)) for text in responses],
        "first": [float(place == first) for place in range(len(responses))],
    }


def item_rows(ranking: Tested, scores: Scores, seed: int) -> list[dict[str, Any]]:
    """Return the rows of a ranking: `accuracy` and what its protocol adds, and `<column>_<rule>`.

    Raises: DataError: the ranking does not hold what its protocol needs.
    """
    base = {
        "id": ranking.preference.id,
        "group": ranking.group,
        "condition": "closed",
        "set": ranking.set,
        "subset": ranking.subset,
        "protocol": ranking.protocol,
    }
    if ranking.protocol == TIES:
        base |= {name: str(ranking.preference.meta[name]) for name in ("kind", "question")}
    by_rule = {name: list(_measured(ranking, s)) for name, s in rule_scores(ranking, seed).items()}
    rows = []
    for place, (id, columns) in enumerate(_measured(ranking, scores)):
        row = {**base, "id": id, **columns}
        for rule in RULES:
            own = by_rule[rule][place][1]
            row |= {f"{name}_{rule}": value for name, value in own.items()}
        rows.append(row)
    return rows


def _measured(ranking: Tested, scores: Scores) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield (id, columns) of the rows that scores of a ranking's answers give."""
    preference = ranking.preference
    right = [place for place, rank in enumerate(preference.ranks) if rank == 1]
    match ranking.protocol:
        case protocol if protocol == BEST_OF:
            yield preference.id, {"accuracy": best_of(scores, right)}
        case protocol if protocol == TIES:
            wrong = [s for place, s in enumerate(scores) if place not in right]
            facts = tie_facts([scores[place] for place in right], wrong)
            yield (
                preference.id,
                {"accuracy": facts.accurate, "gap": facts.gap, "spread": facts.spread},
            )
        case protocol if protocol == STYLES:
            places = styles_of(preference)
            yield (
                preference.id,
                style_matrix(*([scores[k] for k in places[side]] for side in SIDES)),
            )
        case _:
            for better, worse in preference.pairs():
                id = f"{preference.id}/{better}>{worse}"
                yield id, {"accuracy": pair_share(scores[better], scores[worse])}


SIDES = ("chosen", "rejected")


def styles_of(preference: Preference) -> dict[str, list[int]]:
    """Return the places of the right and the wrong answer in each style.

    Raises: DataError: `meta.styles` does not name three of each.
    """
    styles = preference.meta.get("styles")
    number = len(preference.responses)
    fits = isinstance(styles, Mapping) and all(
        isinstance(styles.get(side), list)
        and len(styles[side]) == 3
        and all(type(place) is int and 0 <= place < number for place in styles[side])
        for side in SIDES
    )
    if not fits:
        raise DataError(
            f"ranking {preference.id!r}: meta.styles (={styles!r:.80}) must name the places of "
            "three chosen and three rejected answers; repair the row."
        )
    assert isinstance(styles, Mapping)
    return {side: styles[side] for side in SIDES}
