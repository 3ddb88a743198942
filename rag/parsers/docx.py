"""DOCX: paragraphs, headings and tables in their order, from the file that python-docx opens.

Tracked insertions and what stands in content controls are read, tracked deletions are not; a
table in a cell is part of the cell's text. Headers and footers are parts of their own in the
format, and are not read; nor are comments, text boxes and footnotes. The first row of a table is
its header, or all first rows that are marked as such.

The format is a ZIP of XML, which may unpack to a thousand times its size: the sizes that it
declares, beyond which nothing is unpacked, are checked first.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbrule.errors import DataError
from rag.parsers.parsed import Parsed, TextBuilder, joined_header, table_lines

HEADING = re.compile(r"heading (\d+)", re.IGNORECASE)
LARGEST_XML, LARGEST_FILE = 50_000_000, 1_000_000_000
"""Bytes of all XML of a file, and of all that is in it; XML takes about 20 times that in memory."""
LEFT_OUT = frozenset(
    {"del", "moveFrom", "rPr", "pPr", "sdtPr", "drawing", "pict", "object", "AlternateContent"}
)
BREAKS = {"br": "\n", "cr": "\n", "tab": "\t", "ptab": "\t", "noBreakHyphen": "-"}


def parse(path: Path, id: str) -> Parsed:
    """Return the file as one document. Raises: DataError: it holds no text, or unpacks to more
    than `LARGEST_XML` or `LARGEST_FILE`.
    """
    import docx

    check_size(path)
    opened = docx.Document(str(path))
    text = TextBuilder()
    for block in blocks_of(opened.element.body):
        if name_of(block) == "tbl":
            for line in lines_of(block):
                text.add(line)
            continue
        level = level_of(block, opened)
        if level is not None:
            text.heading(text_of(block), level)
        else:
            text.add(text_of(block))
    about = opened.core_properties
    made = about.modified or about.created
    date = made.date().isoformat() if made is not None else ""
    meta = {"source": id, "format": "docx", "date": date}
    return Parsed([text.document(id, about.title or "", meta)], [])


def check_size(path: Path) -> None:
    """Raise DataError if a file unpacks to more than may be."""
    with zipfile.ZipFile(path) as opened:
        sizes = [(info.filename.lower(), info.file_size) for info in opened.infolist()]
    xml = sum(size for name, size in sizes if name.endswith((".xml", ".rels")))
    whole = sum(size for _, size in sizes)
    for size, largest, what in ((xml, LARGEST_XML, "of XML"), (whole, LARGEST_FILE, "in all")):
        if size > largest:
            raise DataError(
                f"unpacks to {size / 1e6:.0f} MB {what} (at most {largest / 1e6:.0f}); "
                "split it, or save it as another format"
            )


def name_of(element: Any) -> str:
    """Return the name of an element without its namespace, "" for a comment."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def found_in(element: Any, *names: str) -> Iterator[Any]:
    """Yield the nearest elements of some names below one, in their order, whatever wraps them.

    Wrappers are content controls, tracked insertions, custom XML and smart tags.
    """
    for child in element:
        name = name_of(child)
        if name in names:
            yield child
        elif name not in LEFT_OUT:
            yield from found_in(child, *names)


def blocks_of(element: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables of a body or a cell."""
    return found_in(element, "p", "tbl")


def text_of(element: Any) -> str:
    """Return the text of a paragraph, or of what stands in one."""
    parts = []
    for child in element:
        name = name_of(child)
        if name == "t":  # of words, and of formulas
            parts.append(child.text or "")
        elif name in BREAKS:
            parts.append(BREAKS[name])
        elif name not in LEFT_OUT:
            parts.append(text_of(child))
    return "".join(parts)


def level_of(paragraph: Any, opened: Any) -> int | None:
    """Return the level of a paragraph that is a heading, else None."""
    from docx.text.paragraph import Paragraph

    style = Paragraph(paragraph, opened).style
    found = HEADING.fullmatch((style.name if style is not None else "") or "")
    return int(found[1]) if found is not None else None


def lines_of(table: Any) -> list[str]:
    """Return the rows of a table, each with its header."""
    rows = list(found_in(table, "tr"))
    marked = [setting_of(row, "tblHeader") is not None for row in rows]
    head = max(marked.index(False) if False in marked else len(rows), 1) if any(marked) else 1
    cells: list[list[str | None]] = []
    for row in rows:
        cells.append(cells_of(row, cells[-1] if cells else []))
    return [line for line in table_lines(joined_header(cells[:head]), cells[head:]) if line]


def cells_of(row: Any, above: list[str | None]) -> list[str | None]:
    """Return the texts of a row's cells; one that spans columns is followed by None.

    A cell that goes on from the row above has the text of that one.
    """
    found: list[str | None] = [""] * number_in(row, "gridBefore", 0)
    for cell in found_in(row, "tc"):
        merge = setting_of(cell, "vMerge")
        goes_on = merge is not None and value_of(merge) != "restart"
        if goes_on and len(found) < len(above):
            text = above[len(found)] or ""
        else:
            text = "\n".join(
                "; ".join(lines_of(block)) if name_of(block) == "tbl" else text_of(block)
                for block in blocks_of(cell)
            )
        found += [text, *[None] * (number_in(cell, "gridSpan", 1) - 1)]
    return found


def setting_of(element: Any, name: str) -> Any:
    """Return a setting of a row or a cell (in its `trPr` or `tcPr`), None without it."""
    for child in element:
        if name_of(child) in ("trPr", "tcPr"):
            return next((one for one in child if name_of(one) == name), None)
    return None


def number_in(element: Any, name: str, otherwise: int) -> int:
    """Return the number that a row or a cell gives in one of its properties."""
    found = setting_of(element, name)
    said = value_of(found) if found is not None else ""
    return int(said) if said.isascii() and said.isdigit() and len(said) < 4 else otherwise


def value_of(element: Any) -> str:
    """Return the attribute `val` of an element."""
    from docx.oxml.ns import qn

    return str(element.get(qn("w:val")) or "")
