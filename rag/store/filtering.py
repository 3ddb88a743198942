"""Which chunks of a live store a filter passes, exactly: read from the database, kept by segment.

The fields of a segment's chunks are read when the first filter is asked, all of them at once, and
kept while the store is open. So the first filtered search after a start reads every chunk's row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plumbrule.config import require_choice
from plumbrule.errors import listed
from rag.chunks import Chunk
from rag.columns import Columns, is_known
from rag.filters import FIELDS, Filter, fields_of
from rag.store.database import Database
from rag.store.segments import Segment

GONE = Chunk("", "", 0, 0, "", "")
"""Stands for a chunk that was purged, which no search finds."""


class ChunkFields:
    """The fields of the chunks of segments. Args: database: of the store, open."""

    def __init__(self, database: Database):
        self._database = database
        self._kept: dict[int, tuple[Segment, int, Columns]] = {}

    def passing(
        self, wanted: Filter, segments: Sequence[Segment], may: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return, for each segment, which of its chunks the filter passes, (n,) bool.

        Args: may: for each, which of its chunks the principal may find, (n,) bool.
        Raises: ConfigError: a field that none of those has.
        """
        columns = [self._columns(segment) for segment in segments]
        self._kept = {id(one): self._kept[id(one)] for one in segments}
        pairs = list(zip(columns, may, strict=True))
        for name in fields_of(wanted):
            if name in FIELDS or any(is_known(one.column(name), mask) for one, mask in pairs):
                continue
            known = list(dict.fromkeys(n for one, mask in pairs for n in one.fields(mask)))
            require_choice("a field of filter", name, known, f"choose one of {listed(known)}")
        return [one.passing(wanted) for one in columns]

    def _columns(self, segment: Segment) -> Columns:
        kept = self._kept.get(id(segment))
        if kept is not None and kept[1] == len(segment):  # the tail grows
            return kept[2]
        numbers = segment.numbers.tolist()
        with self._database.transaction():
            found = self._database.chunks_between(numbers[0], numbers[-1]) if numbers else {}
        columns = Columns([found.get(number, GONE) for number in numbers])
        self._kept[id(segment)] = (segment, len(segment), columns)
        return columns
