"""Which chunks of a live store a query finds: by keyword, by vector, or by both.

A search is of segments, and of those chunks of theirs that the principal may read and that a filter
passes; what it may not read takes no part in any score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plumbrule.errors import DataError
from rag.filters import Filter
from rag.index.encoders import Encoder
from rag.index.protocol import Hits
from rag.index.ranking import DENSE_WEIGHT, POOL, fuse
from rag.keyword.scoring import Counted, search_keywords
from rag.store.derived import DerivedIndex
from rag.store.filtering import ChunkFields
from rag.store.segments import merged

METHODS = ("bm25", "dense", "hybrid")


class StoreRanking:
    """Ranks the chunks of a store's segments, rows being numbers of chunks.

    Args: index: of the store, which whoever asks has brought to the commit. fields: of its chunks.
        encoder: of its vectors. is_hashing: whether that is `hashing`.
    """

    def __init__(
        self, index: DerivedIndex, fields: ChunkFields, encoder: Encoder, is_hashing: bool
    ):
        self._index, self._fields = index, fields
        self._encoder, self._is_hashing = encoder, is_hashing

    def hits(
        self,
        queries: Sequence[str],
        k: int,
        method: str,
        may: Sequence[np.ndarray],
        passing: Sequence[np.ndarray] | None,
    ) -> list[Hits]:
        """Return each query's best k, rows being numbers of chunks.

        Args: may: for each segment, which of its chunks the principal may read, (n,) bool. passing:
            those of them that the filter passes; None: there is no filter.
        """
        if method == "bm25":
            return self._keyword_hits(queries, k, may, passing)
        if method == "dense":
            return self._dense_hits(queries, k, may, passing)
        pool = max(POOL, k)
        both = (self._dense_hits, self._keyword_hits)
        dense, keyword = (find(queries, pool, may, passing) for find in both)
        pairs = zip(dense, keyword, strict=True)
        return [fuse(*pair, DENSE_WEIGHT, k) for pair in pairs]

    def passing(self, wanted: Filter, may: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return, for each segment, which of the chunks that may be read pass, (n,) bool."""
        found = self._fields.passing(wanted, self._index.segments, may)
        return [mask & passes for mask, passes in zip(may, found, strict=True)]

    def may_be_found(self, names: frozenset[str]) -> list[np.ndarray]:
        """Return, for each segment, which of its chunks may be found under these names, (n,) bool.

        The one place where access is decided.
        """
        rules = self._index.rules
        allows = np.zeros(max(rules, default=0) + 1, dtype=bool)
        for number, readers in rules.items():
            allows[number] = not names.isdisjoint(readers)
        return [segment.alive & allows[segment.rules] for segment in self._index.segments]

    def _keyword_hits(
        self,
        queries: Sequence[str],
        depth: int,
        may: Sequence[np.ndarray],
        passing: Sequence[np.ndarray] | None,
    ) -> list[Hits]:
        parts = zip(self._index.segments, may, may if passing is None else passing, strict=True)
        counted = [
            Counted(one.numbers, one.lengths, one.terms, mask, shown) for one, mask, shown in parts
        ]
        return search_keywords(counted, queries, depth)

    def _dense_hits(
        self,
        queries: Sequence[str],
        depth: int,
        may: Sequence[np.ndarray],
        passing: Sequence[np.ndarray] | None,
    ) -> list[Hits]:
        if not queries:
            return []
        vectors = np.ascontiguousarray(self._encoder.encode_queries(queries), dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise DataError(
                "the encoder's vectors of the queries must be finite; change the query."
            )
        filtered = passing is not None
        pairs = zip(self._index.segments, may if passing is None else passing, strict=True)
        # 0: no word and no part of one is shared
        least = 0.0 if self._is_hashing else -np.inf
        found = [one.search(vectors, depth, mask, filtered, least) for one, mask in pairs]
        hits = [merged(of_query, depth) for of_query in zip(*found, strict=True)]
        if self._is_hashing:
            return [positive(one) for one in hits]
        return hits


def positive(hits: Hits) -> Hits:
    """Return the hits that share something with the query; those left out are all at or below 0."""
    kept = hits.scores > 0
    if kept.all():
        return hits
    return Hits(hits.rows[kept], hits.scores[kept], floor=0.0)
