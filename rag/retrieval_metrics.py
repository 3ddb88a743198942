"""How good a ranking is, by judgements: recall, hit, reciprocal rank and nDCG, each for itself.

All four are of a query's ranked documents and its judgements, document -> gain; a gain above 0 is
relevant, and a document that is not judged has gain 0. They equal those of `ir-measures`
(trec_eval) for the same order:

    recall@k  relevant documents among the first k, over all that are relevant    R@k
    hit@k     1 where any of the first k is relevant, else 0                       Success@k
    mrr@k     1 / rank of the first relevant one among the first k, else 0         RR@k
    ndcg@k    sum of gain / log2(rank + 1) over the first k, over the same sum     nDCG@k
              of the gains in their best order (Jarvelin and Kekalainen 2002; linear gains)

hit@k is at least recall@k, and equals it where one document is relevant; papers on open-domain
questions call hit@k recall. A query without a relevant document has 0 everywhere, and one that
found nothing counts with 0: the mean is over the queries that are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from plumbrule.config import require_range
from plumbrule.errors import DataError
from plumbrule.protocols import Passage

MEASURES = ("recall", "hit", "mrr", "ndcg")


def measure_rankings(
    ranked: Mapping[str, Sequence[str]],
    judged: Mapping[str, Mapping[str, float]],
    cuts: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return `<measure>@<k>` -> (queries,) float64, one a judged query, in the order of `judged`.

    Args: ranked: query -> distinct documents, best first; a query may be missing. judged: query ->
        document -> gain.
    Raises: ConfigError: a cut below 1. DataError: a document that is ranked twice.
    """
    found: dict[str, list[float]] = {f"{m}@{k}": [] for m in MEASURES for k in cuts}
    for query, gains in judged.items():
        documents = ranked.get(query, ())
        if len(set(documents)) < len(documents):
            raise DataError(f"query {query!r} ranks a document twice; keep the first of each.")
        of_ranks = np.array([max(gains.get(d, 0.0), 0.0) for d in documents], dtype=np.float64)
        best = np.sort([gain for gain in gains.values() if gain > 0])[::-1].astype(np.float64)
        for k in cuts:
            values = _of_query(of_ranks, best, k)
            for measure, value in zip(MEASURES, values, strict=True):
                found[f"{measure}@{k}"].append(value)
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def means(measured: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return each measure's mean over queries; of none, NaN."""
    return {k: float(np.mean(v)) if len(v) else float("nan") for k, v in measured.items()}


def documents_of(passages: Sequence[Passage]) -> list[str]:
    """Return the documents that passages come from, each at the rank of its first."""
    return list(dict.fromkeys(passage.document for passage in passages))


def _of_query(gains: np.ndarray, best: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """Return recall, hit, reciprocal rank and nDCG of one query at k.

    Args: gains: of the ranked documents, (n,). best: of all that are relevant, falling, (r,).
    """
    require_range("a cut", k, 1)
    top = gains[:k]
    relevant = np.flatnonzero(top > 0)
    if not len(best) or not len(relevant):
        return 0.0, 0.0, 0.0, 0.0
    ideal = _discounted(best[:k])
    recall = len(relevant) / len(best)
    return recall, 1.0, 1.0 / (int(relevant[0]) + 1), _discounted(top) / ideal


def _discounted(gains: np.ndarray) -> float:
    return float(np.sum(gains / np.log2(np.arange(2, len(gains) + 2))))
