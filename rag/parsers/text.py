"""Plain text, and how bytes become text.

A byte-order mark says which Unicode it is. Otherwise the file is UTF-8; lines that are not are read
as Windows-1252, which many programs write, and that is noted. So a file of mixed encodings loses
nothing, and the letters of another old encoding come out wrong in those lines alone.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from rag.parsers.parsed import Parsed, TextBuilder

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def parse(path: Path, id: str) -> Parsed:
    """Return the file as one document, its text as it is. Raises: DataError: it holds none."""
    text, notes = decoded(path.read_bytes())
    whole = TextBuilder()
    whole.add(text)
    return Parsed([whole.document(id, meta={"source": id, "format": "text"})], notes)


def decoded(data: bytes) -> tuple[str, list[str]]:
    """Return the text of bytes, and a note where its encoding was guessed."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, "replace")
            return text, ["holds what is no Unicode"] if "\ufffd" in text else []
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        pass
    lines, other = [], 0
    for line in data.split(b"\n"):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            other += 1
            lines.append(windows_1252(line))
    return "\n".join(lines), [f"{other} of its lines are not UTF-8 and were read as Windows-1252"]


def windows_1252(line: bytes) -> str:
    """Return a line of Windows-1252; its five undefined bytes as Latin-1 has them."""
    try:
        return line.decode("cp1252")
    except UnicodeDecodeError:
        return line.decode("latin-1")
