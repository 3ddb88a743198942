"""Checks of a row's columns, and the rows of a table with what a check says of a bad one.

A check raises a `DataError` without a place; `checked_rows` adds file, row and the row's text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.row_files import read_table
from plumbrule.errors import DataError


def checked_rows(
    file: Path, check: Callable[[Mapping[str, Any]], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, row) of a table. Raises: DataError: what `check` raises, with file and row."""
    for number, row in read_table(file):
        try:
            check(row)
        except DataError as error:
            text = json.dumps(row, ensure_ascii=False)
            raise DataError(str(error), file, number, text) from None
        yield number, row


def require_texts(row: Mapping[str, Any], *names: str) -> None:
    """Raise DataError unless each column is a text; it may be empty."""
    for name in names:
        if not isinstance(row.get(name), str):
            raise DataError(f"{name} (={row.get(name)!r:.40}) must be text.")


def require_one_of(row: Mapping[str, Any], name: str, *values: int | str) -> None:
    """Raise DataError unless a column is one of the values; true is no 1."""
    value = row.get(name)
    if isinstance(value, bool) or value not in values:
        named = ", ".join(str(v) for v in values)
        raise DataError(f"{name} (={value!r:.40}) must be one of {named}.")


def require_number(row: Mapping[str, Any], name: str) -> None:
    """Raise DataError unless a column is a number."""
    if type(row.get(name)) not in (int, float):
        raise DataError(f"{name} (={row.get(name)!r:.40}) must be a number.")
