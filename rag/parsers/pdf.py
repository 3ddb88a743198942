"""PDF: the text of its pages, by pypdf, without what repeats at their top and bottom.

Tables keep the lines in which pypdf finds them: a PDF does not say what is a table. Pages without
text are images, most likely scanned; they are read by OCR where it is installed (`images.py`), else
counted in a note. A file without any text is reported.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbrule.errors import DataError
from rag.parsers.images import SKIPPED, can_read_images, text_in_image
from rag.parsers.parsed import LINE_END, Parsed, Text

EDGE = 2
"""Lines at the top and at the bottom of a page that may repeat."""
FEWEST_PAGES, REPEATED = 3, 0.5
"""A line at an edge repeats if more than this share of at least so many pages have it there."""
DIGITS = re.compile(r"\d+")


def parse(path: Path, id: str) -> Parsed:
    """Return the file as one document. Raises: DataError: it is encrypted or holds no text."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of each oddity that it mends
    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise DataError("is encrypted; save it without a password")
    pages, images, damaged = [], 0, 0
    for page in reader.pages:
        try:
            found = page.extract_text()
            if not found.strip():
                found = "\n".join(text_in_image(one.image) for one in _images(page))
        except Exception:  # of one page: the others are read
            found = ""
            damaged += 1
        images += not found.strip()
        pages.append([line.strip() for line in found.split("\n") if line.strip()])
    if images == len(pages):
        raise DataError(f"has no text on its {len(pages)} pages, which may be images: {SKIPPED}")
    notes = [f"{images} of its {len(pages)} pages have no text: {SKIPPED}"] if images else []
    notes += [f"{damaged} of its {len(pages)} pages can't be read"] if damaged else []
    text = Text()
    for number, lines in enumerate(without_repeated(pages), 1):
        text.add("\n".join(lines), number, LINE_END)  # a paragraph may go on over the page's end
    title, date = facts_of(reader)
    meta = {"source": id, "format": "pdf", "date": date}
    return Parsed([text.document(id, title, meta)], notes)


def _images(page: Any) -> list[Any]:
    return list(page.images) if can_read_images() else []


def facts_of(reader: Any) -> tuple[str, str]:
    """Return the title and the date of a file, "" where it has none or a malformed one."""
    about = reader.metadata
    if about is None:
        return "", ""
    try:
        made = about.creation_date
    except Exception:  # pypdf parses it only now
        made = None
    return str(about.title or ""), made.date().isoformat() if made is not None else ""


def without_repeated(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the lines of pages without headers and footers.

    Those are lines among the first or last `EDGE` of a page that stand there, numbers aside, on
    most pages.
    """
    if len(pages) < FEWEST_PAGES:
        return [list(lines) for lines in pages]
    most = REPEATED * len(pages)
    top = Counter(key for lines in pages for key in {_key(line) for line in lines[:EDGE]})
    bottom = Counter(key for lines in pages for key in {_key(line) for line in lines[-EDGE:]})
    kept = []
    for lines in pages:
        left = list(lines)
        for _ in range(EDGE):
            if left and top[_key(left[0])] > most:
                left.pop(0)
            if left and bottom[_key(left[-1])] > most:
                left.pop()
        kept.append(left)
    return kept


def _key(line: str) -> str:
    return DIGITS.sub("0", line)
