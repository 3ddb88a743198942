"""One index over several files: each is searched, and the best of all are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plumbrule.errors import ConfigError
from rag.index.protocol import NOTHING, Hits, Selection, VectorSearch
from rag.index.ranking import best


class ShardedIndex:
    """A frozen index over vectors 0..n-1 (`VectorSearch`), of indexes that follow one another.

    Args: shards: at least one; all of the same dimensions.
    """

    def __init__(self, shards: Sequence[VectorSearch]):
        lengths = {shard.dimensions for shard in shards}
        if len(lengths) != 1:
            raise ConfigError(
                f"shards (={sorted(lengths)} dimensions) must be of one length; give at least one, "
                "all made by one encoder."
            )
        self.dimensions = lengths.pop()
        self._shards = shards
        self._starts = [0, *np.cumsum([len(shard) for shard in shards]).tolist()]

    def __len__(self) -> int:
        """Return the number of vectors."""
        return self._starts[-1]

    def search(
        self, vectors: np.ndarray, depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return each query's `depth` best rows of all shards; ties by row.

        Args: vectors: (q, d) float32.
        """
        found: list[list[Hits]] = []
        for shard, start in zip(self._shards, self._starts, strict=False):
            part = None if selection is None else selection.part(start, start + len(shard))
            found.append(shard.search(vectors, depth, part))
        merged = []
        for pools in zip(*found, strict=True):
            moved = [hits.rows + s for hits, s in zip(pools, self._starts, strict=False)]
            rows, scores = np.concatenate(moved), np.concatenate([hits.scores for hits in pools])
            top_rows, top = best(rows, scores, depth)
            hits = Hits(top_rows, top, floor=float(top[-1])) if len(top) else NOTHING
            merged.append(hits)
        return merged
