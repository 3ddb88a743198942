"""Rows of a table, whatever file holds it: JSON Lines, one JSON list, CSV or Parquet.

The ending decides, and for JSON the first character: a file that begins with `[` is one list of
objects. A row comes out as the JSON object that a line of JSON Lines would hold, so all that is
known of columns (`plumbrule/data/columns.py`) holds for each of them. CSV holds nothing but text,
so there the few columns that are numbers are read as such, and an empty cell is a missing value.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbrule.data.json_lines import as_object, numbered_lines, require_file
from plumbrule.data.strict_json import parse_json, require_depth, require_unicode
from plumbrule.errors import DataError, listed

JSON_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
TABLE_ENDINGS = (*JSON_ENDINGS, ".csv", ".csv.gz", ".parquet")
CSV_NUMBERS = ("margin", "confidence", "score_chosen", "score_rejected", "best")
"""Columns of CSV that are numbers; all others are text."""
BATCH_ROWS = 1024
"""Of Parquet, decoded together."""


def read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, object) of each row; a blank line of JSON Lines is none.

    The number counts lines in JSON Lines and rows in the other forms.
    Raises: DataError: a missing, unreadable or damaged file, or a row that is no JSON object.
    """
    if path.name.endswith(".parquet"):
        return _parquet_rows(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return _csv_rows(path)
    return _json_rows(path)


def stem_of(path: Path) -> str:
    """Return a file's name up to its first dot."""
    return path.name.split(".")[0]


def form_of(path: Path) -> str:
    """Return the form of a table where it is not JSON Lines: a JSON list, CSV, Parquet; else ""."""
    if path.name.endswith(".parquet"):
        return "Parquet"
    if path.name.endswith((".csv", ".csv.gz")):
        numbers = ", ".join(CSV_NUMBERS)
        return f"CSV (numbers in {numbers}, texts elsewhere, empty cells left out)"
    return "one JSON list" if _is_list(path) else ""


def _is_list(path: Path) -> bool:
    return next((t.lstrip()[0] == "[" for _, t in numbered_lines(path) if t.strip()), False)


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not _is_list(path):
        for number, line in numbered_lines(path):
            if line.strip():
                yield number, as_object(line, path, number)
        return
    text = "".join(line for _, line in numbered_lines(path))
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise DataError(
            f"{error}; a file that begins with [ must be one list of objects.", path, 1, text
        ) from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError("a row must be a JSON object.", path, number, json.dumps(row))
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)  # of a cell; the library's own 128 KiB is less than a document
    lines = (line for _, line in numbered_lines(path))
    table = csv.reader(lines, strict=True)
    number = 0
    try:
        names = next(table, [])
        if len(set(names)) < len(names) or not all(name.strip() for name in names) or not names:
            raise DataError(
                f"the first line ({listed(names)}) must name each column once.", path, 1
            )
        for number, cells in enumerate((c for c in table if c), 1):
            if len(cells) != len(names):
                raise DataError(
                    f"a row must have a cell for each of the {len(names)} columns, not "
                    f"{len(cells)}; put quotes around commas.",
                    path,
                    number,
                    ",".join(cells),
                )
            row = dict(zip(names, cells, strict=True))
            yield number, {n: _cell(n, v, path, number) for n, v in row.items() if v != ""}
    except csv.Error as error:
        raise DataError(f"not valid CSV ({error}).", path, number + 1) from None


def _cell(name: str, text: str, path: Path, row: int) -> Any:
    if name not in CSV_NUMBERS:
        return text
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{name} must be a number ({error}).", path, row, text) from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    require_file(path)
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _as_json(row, path, number)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"can't be read as Parquet ({reason:.120}); fetch it again.", path, number + 1
        ) from None


def _as_json(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """Return a row of Parquet, which must hold JSON's types alone. Raises: DataError."""
    try:
        require_depth(row)
        json.dumps(row, allow_nan=False)
        require_unicode(row)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a row must hold texts, finite numbers, lists and objects ({error}); leave the other "
            "columns out.",
            path,
            number,
            repr(row),
        ) from None
    return row
