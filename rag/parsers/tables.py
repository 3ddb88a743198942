"""CSV and TSV: each row a block of text that carries its header.

The first row is the header. What separates cells is a tab in a `.tsv`; elsewhere it is the one of
`, ; tab |` that the header holds most often, a comma if none.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from plumbrule.errors import DataError
from rag.parsers.parsed import Parsed, Text, table_lines
from rag.parsers.text import decoded

SEPARATORS = (",", ";", "\t", "|")
LARGEST_CELL = 2**31 - 1


def parse(path: Path, id: str) -> Parsed:
    """Return the table as one document. Raises: DataError: it has no rows, or quotes that never
    end.
    """
    text, notes = decoded(path.read_bytes())
    text = text.replace("\0", "")
    first = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(SEPARATORS, key=first.count)
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"is no table of cells separated by {separator!r} ({error})") from None
    finally:
        csv.field_size_limit(before)
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        raise DataError("has no text")
    header, *others = rows
    uneven = sum(len(row) != len(header) for row in others)
    if uneven:
        notes.append(f"{uneven} of its {len(others)} rows have not the cells of the header")
    table = Text()
    for line in table_lines(header, others):
        table.add(line)
    meta = {"source": id, "format": path.suffix.lower().removeprefix(".")}
    return Parsed([table.document(id, meta=meta)], notes)
