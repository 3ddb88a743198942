"""DOCX: paragraphs, headings and tables in their order, by python-docx.

Headers and footers are parts of their own in the format, and are not read; nor are comments, text
boxes and footnotes. The first row of a table is its header.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rag.parsers.parsed import Parsed, Text, table_lines

HEADING = re.compile(r"heading (\d+)", re.IGNORECASE)


def parse(path: Path, id: str) -> Parsed:
    """Return the file as one document. Raises: DataError: it holds no text."""
    import docx
    from docx.table import Table

    opened = docx.Document(str(path))
    text = Text()
    for block in opened.iter_inner_content():
        if isinstance(block, Table):
            header, *rows = [cells_of(row) for row in block.rows]
            for line in table_lines(header, rows):
                text.add(line)
            continue
        style = HEADING.fullmatch((block.style.name if block.style is not None else "") or "")
        if style is not None:
            text.heading(block.text, int(style[1]))
        else:
            text.add(block.text)
    about = opened.core_properties
    made = about.modified or about.created
    date = made.date().isoformat() if made is not None else ""
    meta = {"source": id, "format": "docx", "date": date}
    return Parsed([text.document(id, about.title or "", meta)], [])


def cells_of(row: Any) -> list[str]:
    """Return the texts of a row; a cell that spans several columns stands once, the rest empty."""
    found, before = [], None
    for cell in row.cells:
        found.append("" if cell._tc is before else cell.text)
        before = cell._tc
    return found
