"""Search by summaries: a summary is matched, and the passages that it stands for are returned.

A summary is made of passages, and tells what they hold. So it is matched only for a principal that
may read every one of them, whatever each passage's own rule would allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag.index.protocol import Hits, SearchIndex, Selection
from rag.index.ranking import best


@dataclass(frozen=True)
class SummaryIndex:
    """A `SearchIndex` of texts that finds passages by their summaries.

    summaries: an index whose row i is summary i. sources: the rows of the passages that summary i
    was made of, at least one.
    """

    summaries: SearchIndex[Sequence[str]]
    sources: Sequence[np.ndarray]

    def search(
        self, queries: Sequence[str], depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return the selected passages of the best summaries, with their summary's score.

        Passages of one summary stand in order of rows; one that several summaries stand for has
        the best one's score.
        """
        chosen = None
        if selection is not None:
            passing = np.array([selection.mask[rows].any() for rows in self.sources], dtype=bool)
            chosen = Selection(readable_summaries(self.sources, selection), passing)
        found = self.summaries.search(queries, depth, chosen)
        return [self._passages(hits, depth, selection) for hits in found]

    def _passages(self, hits: Hits, depth: int, selection: Selection | None) -> Hits:
        scores: dict[int, float] = {}
        for summary, score in zip(hits.rows, hits.scores, strict=True):
            for row in self.sources[summary]:
                if selection is None or selection.mask[row]:
                    scores.setdefault(int(row), float(score))
        rows = np.array(list(scores), dtype=np.int64)
        top_rows, top = best(rows, np.array(list(scores.values())), depth)
        return Hits(top_rows, top, hits.floor)


def readable_summaries(sources: Sequence[np.ndarray], selection: Selection) -> np.ndarray:
    """Return (summaries,) bool, True = all passages that it was made of are readable."""
    return np.array([bool(selection.readable[rows].all()) for rows in sources], dtype=bool)
