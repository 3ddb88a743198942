"""BM25 with weights that are computed when a query is asked.

The formula is Lucene's, as in `rag/index/bm25.py`, with the same k1, b and tokenisation; N, df and
the mean length are of the chunks that *may be read*: that live, and whose rule names the principal,
whatever a filter passes.
So a score says nothing of a text that its reader must not know of, and equals the score in a bm25s
index of exactly those chunks, bit for bit: the steps and their precisions are bm25s's (float64
inside, the weight and each term's score rounded to float32, summed in the order of the query).

    score(q, c) = sum over terms t of q: idf(t) * tf / (k1 * (1 - b + b * length / mean) + tf)
    idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rag.index.protocol import Hits
from rag.index.ranking import best
from rag.keyword.postings import TermCounts
from rag.keyword.words import K1, B, words_of


class Counted(NamedTuple):
    """What keyword search needs of one segment."""

    numbers: np.ndarray
    """(n,) int64, rising: of the chunks."""
    lengths: np.ndarray
    """(n,) int32, in terms."""
    terms: TermCounts
    may: np.ndarray
    """(n,) bool, True: may be read, and counts towards how rare a term is."""
    passes: np.ndarray
    """(n,) bool, True: may be found; of those that may be read."""


def search_keywords(segments: Sequence[Counted], queries: Sequence[str], depth: int) -> list[Hits]:
    """Return each query's best `depth` chunks by number; those that share no term are not found."""
    total = sum(int(np.count_nonzero(one.may)) for one in segments)
    if total == 0:
        return [_no_hits() for _ in queries]
    mean = sum(int(one.lengths[one.may].sum()) for one in segments) / total
    return [_search(segments, words, total, mean, depth) for words in words_of(queries)]


def _no_hits() -> Hits:
    return Hits(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), floor=0.0)


def _search(
    segments: Sequence[Counted], words: Sequence[str], total: int, mean: float, depth: int
) -> Hits:
    scores = [np.zeros(len(one.numbers), dtype=np.float32) for one in segments]
    for word in words:
        found = []
        for one in segments:
            places, counts = one.terms.of(word)
            kept = one.may[places]
            found.append((places[kept], counts[kept]))
        df = sum(len(places) for places, _ in found)
        if df == 0:
            continue
        idf = np.float32(math.log(1 + (total - df + 0.5) / (df + 0.5)))
        for one, score, (places, counts) in zip(segments, scores, found, strict=True):
            length = one.lengths[places].astype(np.float64)
            tf = counts.astype(np.float64)
            share = tf / (K1 * ((1 - B) + B * length / mean) + tf)
            score[places] += (np.float64(idf) * share).astype(np.float32)
    found_in = [(score > 0) & one.passes for one, score in zip(segments, scores, strict=True)]
    rows = [one.numbers[mask] for one, mask in zip(segments, found_in, strict=True)]
    kept_scores = [score[mask] for score, mask in zip(scores, found_in, strict=True)]
    numbers, top = best(np.concatenate(rows), np.concatenate(kept_scores), depth)
    available = sum(int(np.count_nonzero(one.passes)) for one in segments)
    full = len(numbers) == min(depth, available) > 0
    return Hits(numbers, top, floor=float(top[-1]) if full else 0.0)
