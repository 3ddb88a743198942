"""CSV and TSV: each row a block of text that carries its header.

The first row is the header. What separates cells is a tab in a `.tsv`; elsewhere it is what a first
line `sep=;` says, which is no row, else the one of `, ; tab |` by which most of the first rows have
as many cells as the header. Where several do equally, the one that gives more columns, then the one
that gives more numbers (`1,5;2,5`), is taken.
"""

from __future__ import annotations

import csv
import io
import re
from itertools import islice
from pathlib import Path

from plumbrule.errors import DataError
from rag.parsers.parsed import Parsed, TextBuilder, table_lines
from rag.parsers.text import decoded

SEPARATORS = (",", ";", "\t", "|")
LARGEST_CELL = 2**31 - 1


SAYS_SEPARATOR = re.compile(r"\A\"?sep=(.)\"?[ ]*(?:\r\n|\r|\n|\Z)", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*%?")
SAMPLE_ROWS = 100
"""Rows, the header included, by which the separator is chosen."""


def parse(path: Path, id: str) -> Parsed:
    """Return the table as one document. Raises: DataError: it has no rows, or, in a `.csv`, quotes
    that never end or that end within a cell.
    """
    text, notes = decoded(path.read_bytes())
    text = text.replace("\0", "")
    is_tsv = path.suffix.lower() == ".tsv"
    said = SAYS_SEPARATOR.match(text)
    if said is not None:
        text = text[said.end() :]
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        separator = said[1] if said is not None else "\t" if is_tsv else separator_of(text)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        if not is_tsv:
            raise DataError(f"is no table of cells separated by {separator!r} ({error})") from None
        # Many programs write a quote in a TSV as it stands.
        notes.append(f"its quotes do not match ({error}); all were read as they stand")
        rows = [line.split(separator) for line in re.split(r"\r\n|\r|\n", text)]
    finally:
        csv.field_size_limit(before)
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        raise DataError("has no text")
    header, *others = rows
    uneven = sum(len(row) != len(header) for row in others)
    if uneven:
        notes.append(f"{uneven} of its {len(others)} rows have not the cells of the header")
    table = TextBuilder()
    for line in table_lines(header, others):
        table.add(line)
    meta = {"source": id, "format": path.suffix.lower().removeprefix(".")}
    return Parsed([table.document(id, meta=meta)], notes)


def separator_of(text: str) -> str:
    """Return what separates the cells of a table, a comma if nothing does."""
    best, highest = SEPARATORS[0], (0.0, 0, 0.0)
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        rows = [row for row in islice(reader, SAMPLE_ROWS) if any(cell.strip() for cell in row)]
        columns = len(rows[0]) if rows else 0
        if columns < 2:
            continue
        even = sum(len(row) == columns for row in rows) / len(rows)
        cells = [cell.strip() for row in rows for cell in row]
        numbers = sum(NUMBER.fullmatch(cell) is not None for cell in cells) / len(cells)
        if (even, columns, numbers) > highest:
            best, highest = separator, (even, columns, numbers)
    return best
