"""JSON Lines that anybody may have written: the object in each row, or what is wrong with the row.

An error names the file, the row and its first characters. What a row must hold to become a record
says `records.py`. Files of our own, which are not checked so, are read by
`plumbrule/store/json_files.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbrule.data.strict_json import parse_json
from plumbrule.errors import DataError
from plumbrule.store.model_files import LFS_POINTER
from plumbrule.store.source_files import require_readable


def read_rows(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, object) of a JSON Lines file, gzip by its ending; blanks skipped.

    Raises: DataError: a missing or unreadable file, or a row that is not a JSON object with values
    that every later step can hold (`plumbrule/data/strict_json.py`); with its first characters.
    """
    for number, line in numbered_lines(Path(path)):
        if line.strip():
            yield number, as_object(line, path, number)


def as_object(text: str, path: Path | str, row: int) -> dict[str, Any]:
    """Return the JSON object of one row. Raises: DataError: it holds none."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise DataError(f"{error}{_hint(text)}.", path, row, text) from None
    if not isinstance(value, dict):
        raise DataError("a row must be a JSON object.", path, row, text)
    return value


def _hint(text: str) -> str:
    if text.startswith(LFS_POINTER.decode()):
        return "; this is a Git LFS pointer and not the data: fetch it with git lfs pull"
    if text.strip() in ("{", "["):
        return "; JSON Lines hold one whole object a line"
    return ""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (row number from 1, line) of a text file, gzip by its ending.

    Raises: DataError: no such file, or what can't be read or decoded; with the row it stops at.
    """
    import gzip

    require_file(path)
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                yield number, line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"can't be read as UTF-8 text or gzip ({error}); fetch it again where it is damaged; a "
            "Git LFS pointer must be fetched first (git lfs pull).",
            path,
            number + 1,
        ) from None


def require_file(path: Path) -> None:
    """Raise DataError unless `path` is a regular file that can be read."""
    require_readable(path)
    if path.is_dir():
        raise DataError("is a folder where a file is needed; name the file.", path)
