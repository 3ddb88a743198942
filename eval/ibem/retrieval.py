"""Expression to page: is an expression's page found by the other expressions on it?

A page is the tokens of all its expressions and their pairs of neighbours; the expression that is
looked for is taken out of its own page, so that the page is found by what else stands there or not
at all. Pages are ranked by BM25 (k1 = 1.5, b = 0.75; Robertson and Zaragoza 2009); a page of equal
score counts as ranked before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from eval.ibem.records import MathExpression
from eval.ibem.scores import tokens

K1, B = 1.5, 0.75
WITHIN = (1, 10)
"""The k of hit@k."""


def terms(latex_norm: str) -> Counter[str]:
    """Return the tokens of an expression and its pairs of neighbouring tokens, counted."""
    words = tokens(latex_norm)
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    return Counter([*words, *pairs])


class Pages:
    """Pages to be searched. pages: page -> its expressions; one without any can't be found."""

    def __init__(self, pages: Mapping[str, Sequence[MathExpression]]):
        self.places = {page: place for place, page in enumerate(pages)}
        counts = [sum((terms(one.latex_norm) for one in own), Counter()) for own in pages.values()]
        self.lengths = np.array([sum(count.values()) for count in counts], float)
        postings: dict[str, list[tuple[int, int]]] = {}
        for place, count in enumerate(counts):
            for term, number in count.items():
                postings.setdefault(term, []).append((place, number))
        self.postings = {term: np.array(found) for term, found in postings.items()}

    def rank(self, query: Counter[str], page: str, without: Counter[str]) -> int:
        """Return the rank of a page, 1 the best.

        Args: without: the terms that are taken out of that page, which it has.
        """
        own = self.places[page]
        lengths = self.lengths.copy()
        lengths[own] -= sum(without.values())
        norm = K1 * (1 - B + B * lengths / max(float(lengths.mean()), 1.0))
        scores = np.zeros(len(lengths))
        for term, times in query.items():
            if term not in self.postings:
                continue
            places, numbers = self.postings[term].T
            numbers = numbers - np.where(places == own, without.get(term, 0), 0)
            places, numbers = places[numbers > 0], numbers[numbers > 0]
            rarity = np.log1p((len(lengths) - len(places) + 0.5) / (len(places) + 0.5))
            scores[places] += times * rarity * numbers * (K1 + 1) / (numbers + norm[places])
        if scores[own] <= 0:
            return len(scores)
        return int((scores >= scores[own]).sum())


def evenly(items: Sequence[Any], most: int | None) -> list[Any]:
    """Return at most `most` of the items, spread evenly."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def search_rows(
    pages: Pages, queries: Sequence[tuple[MathExpression, str]], what: str
) -> list[dict[str, Any]]:
    """Return a row for each query: whether its page is within the first k, and 1 / its rank.

    Args: queries: (true expression, the latex_norm that is searched by).
    """
    rows = []
    for one, searched in queries:
        rank = pages.rank(terms(searched), one.page, terms(one.latex_norm))
        hits = {f"hit_at_{k}": int(rank <= k) for k in WITHIN}
        found = {"id": one.id, "group": one.document, "type": one.type, "what": what}
        rows.append({**found, **hits, "reciprocal_rank": 1 / rank})
    return rows
