"""JSON Lines: a document a row, as an index's documents are written (docs/retrieval.md).

A row without `id` gets the file's and its number. A row that is no document is noted, and the
others are read.
"""

from __future__ import annotations

from pathlib import Path

from plumbrule.data.json_lines import as_object
from plumbrule.data.records import Document, from_dict
from plumbrule.errors import DataError
from rag.parsers.parsed import Parsed
from rag.parsers.text import decoded

MOST_NOTES = 20


def parse(path: Path, id: str) -> Parsed:
    """Return the documents of a file. Raises: DataError: no row of it is one."""
    text, notes = decoded(path.read_bytes())
    found, wrong = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = as_object(line, path, number)
            found.append(from_dict(Document, {"id": f"{id}:{number}", **row}))
        except DataError as error:
            message = str(error)
            where = "" if message.startswith(str(path)) else f"row {number}: "
            wrong.append(f"{where}{message}")
    if not found:
        raise DataError(wrong[0] if wrong else "has no text")
    more = len(wrong) - MOST_NOTES
    notes += wrong[:MOST_NOTES] + ([f"and {more} rows more"] if more > 0 else [])
    return Parsed(found, notes)
