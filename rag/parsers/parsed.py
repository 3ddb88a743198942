"""What a parser returns, and how it puts a document's text together.

A document's text is what can be cited: chunks are slices of it. Blocks (paragraphs, headings, rows
of tables) are separated by a blank line, which every chunker takes for the end of a sentence, so
that a row of a table is not cut where the next begins. Where pages and sections begin stands beside
the text, in `meta["places"]` (`rag/chunks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from plumbrule.data.records import Document
from plumbrule.errors import DataError
from rag.chunks import PLACES, SECTION_JOIN

BLOCK_END, LINE_END = "\n\n", "\n"


class Parsed(NamedTuple):
    """The documents of a file."""

    documents: list[Document]
    notes: list[str]
    """What was left out or guessed."""


class TextBuilder:
    """A text that grows by blocks and remembers where its pages and sections begin."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._headings: list[tuple[int, str]] = []  # (level, text), outermost first
        self._places: list[list[Any]] = []

    def add(self, block: str, page: int | None = None, end: str = BLOCK_END) -> None:
        """Add a block; blank ones are left out. Args: end: what separates it from the next one."""
        block = clean(block).strip()
        if not block:
            return
        place = [self._length, page, SECTION_JOIN.join(text for _, text in self._headings)]
        if (not self._places and (page or place[2])) or (
            self._places and self._places[-1][1:] != place[1:]
        ):
            self._places.append(place)
        self._parts += [block, end]
        self._length += len(block) + len(end)

    def heading(self, text: str, level: int, page: int | None = None) -> None:
        """Add a heading, under which all stands until the next one of its level or above."""
        text = " ".join(clean(text).split())
        if text:
            self._headings = [h for h in self._headings if h[0] < level] + [(level, text)]
            self.add(text, page)

    def content(self) -> str:
        """Return what was added."""
        return "".join(self._parts[:-1])

    def document(self, id: str, title: str = "", meta: Mapping[str, Any] | None = None) -> Document:
        """Return the document. Raises: DataError: it holds no text."""
        text = self.content()
        if not text:
            raise DataError("has no text")
        found = {name: value for name, value in (meta or {}).items() if value not in (None, "")}
        if self._places:
            found[PLACES] = self._places
        return Document(id, text, " ".join(clean(title).split()), found)


def clean(text: str) -> str:
    """Return a text with plain line breaks, without NUL and what is no Unicode."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    return text.encode("utf-8", "replace").decode("utf-8")


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str | None]]) -> list[str]:
    """Return the rows of a table as `name: value | name: value`, so that each says what it means.

    None is a column over which the cell before it spans: such a cell has the names of all its
    columns, or none if it spans the whole row. Empty cells are left out; a cell without a header
    stands alone. The header is a line of its own if a name in it has no cell, so that none is lost.
    """
    names = [" ".join(clean(name).split()) for name in header]
    lines, used = [], set()
    for row in rows:
        cells = []
        for place, cell in enumerate(row):
            if cell is None or not (value := " ".join(clean(cell).split())):
                continue
            end = place + 1
            while end < len(row) and row[end] is None:
                end += 1
            whole = end - place > 1 and end - place == len(row)
            over = [] if whole else dict.fromkeys(name for name in names[place:end] if name)
            used |= set(over)
            cells.append(f"{', '.join(over)}: {value}" if over else value)
        if cells:
            lines.append(" | ".join(cells))
    alone = dict.fromkeys(name for name in names if name)
    return lines if lines and used >= set(alone) else [" | ".join(alone), *lines]


def joined_header(rows: Sequence[Sequence[str | None]]) -> list[str]:
    """Return a header of one row: the texts of each column's cells, one that spans rows once.

    A cell that spans columns (None, see `table_lines`) is in the name of each.
    """
    columns: list[dict[str, None]] = [{} for _ in range(max(map(len, rows), default=0))]
    for row in rows:
        before = ""
        for column, cell in zip(columns, row, strict=False):
            before = before if cell is None else cell
            column[" ".join(before.split())] = None
    return [" ".join(text for text in column if text) for column in columns]
