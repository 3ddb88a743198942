"""PDF: the text of its pages, by pypdf, without what repeats at their top and bottom.

Numbers count when lines are compared, but for those of pages ("3", "- 3 -", "3 / 12", "Page 3 of
12", as long as they rise with the page), so that "Total: 100 EUR" on one page and "Total: 200 EUR"
on the next stay. A note counts what was left out and names it, and no page is emptied by it.

Tables keep the lines in which pypdf finds them: a PDF does not say what is a table. Pages without
text are images, most likely scanned; they are read by OCR where it is installed (`images.py`), else
counted in a note. So are pages that pypdf can't read, with its first reason; one is that it refuses
a stream that unpacks to more than 75 MB. A file without any text is reported.
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
from rag.parsers.parsed import LINE_END, Parsed, TextBuilder

EDGE = 2
"""Lines at the top and at the bottom of a page that may repeat."""
FEWEST_PAGES, REPEATED = 3, 0.5
"""A line at an edge repeats if more than this share of at least so many pages have it there."""
ALONE = re.compile(r"[-–—|.()\[\]\s]*(\d{1,6})(?:\s*(?:/|of)\s*\d{1,6})?[-–—|.()\[\]\s]*", re.I)
NAMED = re.compile(r"\b(?:page|pg\.?|p\.)\s*(\d{1,6})\b", re.I)
"""Lines that are the number of a page, and such a number in a longer line."""
MOST_NAMED = 5
"""Different lines that a note about repeated ones names."""


def parse(path: Path, id: str) -> Parsed:
    """Return the file as one document. Raises: DataError: it is encrypted or holds no text."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of each oddity that it mends
    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise DataError("is encrypted; save it without a password")
    pages: list[list[str]] = []
    images, damaged = 0, []
    for page in reader.pages:
        try:
            found = page.extract_text()
            if not found.strip():
                found = "\n".join(text_in_image(one.image) for one in _images(page))
        except Exception as error:  # of one page: the others are read
            found = ""
            damaged.append(f"{type(error).__name__}: {error!s:.120}")
        else:
            images += not found.strip()
        pages.append([line.strip() for line in found.split("\n") if line.strip()])
    notes = [f"{images} of its {len(pages)} pages have no text: {SKIPPED}"] if images else []
    if damaged:
        notes.append(f"{len(damaged)} of its {len(pages)} pages can't be read ({damaged[0]})")
    if damaged and not any(pages):
        raise DataError("; ".join(notes))
    if not any(pages):
        raise DataError(f"has no text on its {len(pages)} pages, which may be images: {SKIPPED}")
    kept = without_repeated(pages)
    notes += repeated_note(pages, kept)
    text = TextBuilder()
    for number, lines in enumerate(kept, 1):
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

    Those are lines among the first or last `EDGE` of a page that stand there, numbers of pages
    aside, on most pages. A page of nothing else keeps its lines.
    """
    if len(pages) < FEWEST_PAGES:
        return [list(lines) for lines in pages]
    most = REPEATED * len(pages)
    keyed = [[_key(line, number) for line in lines] for number, lines in enumerate(pages)]
    top = Counter(key for keys in keyed for key in set(keys[:EDGE]))
    bottom = Counter(key for keys in keyed for key in set(keys[-EDGE:]))
    kept = []
    for lines, keys in zip(pages, keyed, strict=True):
        start, end = 0, len(lines)
        for _ in range(EDGE):
            start += start < end and top[keys[start]] > most
            end -= start < end and bottom[keys[end - 1]] > most
        kept.append(list(lines[start:end] if start < end else lines))
    return kept


def _key(line: str, page: int) -> tuple[str, ...]:
    """Return what two lines share if one repeats the other.

    A page's number counts by its distance from `page`, which is the same on all pages if it rises
    with them.
    """
    found = ALONE.fullmatch(line) or NAMED.search(line)
    if found is None:
        return (line,)
    return line[: found.start(1)], str(int(found[1]) - page), line[found.end(1) :]


def repeated_note(pages: Sequence[Sequence[str]], kept: Sequence[Sequence[str]]) -> list[str]:
    """Return the note that tells which lines were left out as repeated ones, if any were."""
    out: Counter[str] = Counter()
    for lines, left in zip(pages, kept, strict=True):
        out += Counter(lines) - Counter(left)
    if not out:
        return []
    named = ", ".join(f"{line!r:.60}" for line, _ in out.most_common(MOST_NAMED))
    number = "1 line that repeats" if out.total() == 1 else f"{out.total()} lines that repeat"
    return [f"{number} at the top or bottom of pages left out, as {named}"]
