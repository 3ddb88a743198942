"""The passages of an index beside their rules and fields: what a search returns, and to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from plumbrule.protocols import Passage
from rag.access import AccessRules, Principal, readable
from rag.chunks import Chunk
from rag.columns import Columns
from rag.filters import Filter, filter_of
from rag.index.protocol import Selection


class Corpus:
    """Passages 0..n-1.

    Args: chunks: whose places are their rows in every index.
    """

    def __init__(self, chunks: Sequence[Chunk]):
        self.chunks = chunks
        self.rules = AccessRules.of(chunks)
        self.columns = Columns(chunks)

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self.chunks)

    @cached_property
    def by_document(self) -> Mapping[str, list[int]]:
        """Return the rows of each document, in the order in which they stand in it."""
        found: dict[str, list[int]] = {}
        for row, chunk in enumerate(self.chunks):
            found.setdefault(chunk.document, []).append(row)
        for rows in found.values():
            rows.sort(key=lambda row: (self.chunks[row].start, self.chunks[row].end, row))
        return found

    @cached_property
    def by_id(self) -> Mapping[str, int]:
        """Return the row of each passage."""
        return {chunk.id: row for row, chunk in enumerate(self.chunks)}

    def passage(self, row: int, score: float) -> Passage:
        """Return a row as a search returns it."""
        chunk = self.chunks[row]
        return Passage(chunk.id, chunk.text, score, chunk.document, chunk.start, chunk.end)

    def select(
        self,
        principal: Principal,
        wanted: Filter | Mapping[str, Any] | str | None = None,
        name: str = "filter",
    ) -> Selection:
        """Return the rows that a search for the principal may find.

        Args: wanted: a filter, or a mapping or text that `parse_filter` reads. name: of the
            setting that holds it, for errors.
        Raises: ConfigError: it is no filter, or names a field that no passage has that the
            principal may read.
        """
        may_read = readable(self.rules, principal)
        wanted = filter_of(wanted, name)
        if wanted is None:
            return Selection(may_read)
        self.columns.require_known(wanted, may_read, name)
        return Selection(may_read, self.columns.passing(wanted))
