"""Ranked passages: how ties are broken and how two rankings become one.

A search gives a *pool*: the best `depth` passages of one method. Equal scores stand in the order of
their rows, so a ranking is a function of query and index alone.

BM25 and cosine live on different scales. The hybrid is a convex sum of scores that are min-max
scaled per query:

    hybrid(p) = w * scaled_dense(p) + (1 - w) * scaled_keyword(p),
    scaled(p) = (score(p) - floor) / (best - floor) inside the pool, 0 outside it.

The floor is the score of the pool's last place, which nothing outside the pool exceeds. So where a
pool holds the whole corpus this is exact min-max scaling over it, and for larger corpora the
hybrid ranks the union of two pools. Reciprocal rank fusion (`fuse_ranks`) is the other choice: it
takes ranks alone, which need no scaling, and so throws away how far the best passage is ahead of
the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plumbrule.rounding import is_rounding, precision_of
from rag.index.protocol import Hits

DENSE_WEIGHT = 0.5
"""w above, in [0, 1]. Not tuned: either extreme is a method of its own."""
POOL = 100
"""Passages of each method that the hybrid considers, at least."""
RANK_CONSTANT = 60
"""Of reciprocal rank fusion: that of its paper."""


def best(rows: np.ndarray, scores: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `depth` best rows and their scores, best first, ties by row.

    A row below 0, or with a score that is not finite, is no passage and is left out.

    Args: rows: (n,) int64. scores: (n,). depth: at least 0.
    """
    found = (rows >= 0) & np.isfinite(scores)
    rows, scores = rows[found], scores[found]
    if len(scores) > depth > 0:
        place = len(scores) - depth
        lowest = np.partition(scores, place)[place]
        kept = scores >= lowest  # every passage that ties for the last place stays in the running
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:depth]
    return rows[order], scores[order]


def scaled(hits: Hits) -> np.ndarray:
    """Return a pool's scores scaled to [0, 1], (m,) float64.

    All 1 where they differ by rounding alone (`plumbrule/rounding.py`), as equal ones do.
    """
    scores = np.asarray(hits.scores, dtype=np.float64)
    if not len(scores):
        return scores
    span, largest = scores[0] - hits.floor, max(abs(scores[0]), abs(hits.floor))
    if is_rounding(span, largest, precision_of(np.asarray(hits.scores).dtype)):
        return np.ones_like(scores)
    return (scores - hits.floor) / span


def fuse_ranks(pools: Sequence[Hits], depth: int) -> Hits:
    """Return the `depth` best passages of some pools by reciprocal rank fusion, float64.

    The score of a passage is the sum of 1 / (RANK_CONSTANT + rank) over the pools that have it,
    ranks from 1 (Cormack, Clarke and Buettcher 2009, SIGIR).
    """
    rows = np.unique(np.concatenate([hits.rows for hits in pools]))
    scores = np.zeros(len(rows))
    for hits in pools:
        ranks = np.arange(1, len(hits.rows) + 1)
        scores[np.searchsorted(rows, hits.rows)] += 1.0 / (RANK_CONSTANT + ranks)
    return Hits(*best(rows, scores, depth), floor=0.0)


def fuse(dense: Hits, keyword: Hits, dense_weight: float, depth: int) -> Hits:
    """Return the `depth` best of two pools by the convex sum of their scaled scores, float64."""
    rows = np.union1d(dense.rows, keyword.rows)
    scores = np.zeros(len(rows))
    for hits, weight in ((dense, dense_weight), (keyword, 1.0 - dense_weight)):
        scores[np.searchsorted(rows, hits.rows)] += weight * scaled(hits)
    return Hits(*best(rows, scores, depth), floor=0.0)
