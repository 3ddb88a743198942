"""JSON and JSON Lines files of our own: what stages write into artifacts, and how it is read back.

Every file has one form: text is written as it is and not as escapes; a JSON file is indented by one
space and ends with a line break; a row of JSON Lines is one line. Files that others made are read
elsewhere, with errors that name their rows (`plumbrule/data/json_lines.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.store.manifests import write_text, write_texts

MOST = 2**64 - 1
"""Of a whole number in a file: keys of random numbers have 64 bits."""
MOST_DIGITS = len(str(MOST)) + 1
"""Of such a number, its sign included."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, also after a crash."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises: OSError: it can't be read. ValueError: it is no JSON, or holds a whole number of more
    than 64 bits, which no file of ours does and no float can.
    """
    return json.loads(path.read_bytes().decode("utf-8"), parse_int=_whole_number)


def _whole_number(digits: str) -> int:
    """Return a whole number of JSON. Raises: ValueError: it has more than 64 bits."""
    if len(digits) > MOST_DIGITS or abs(int(digits)) > MOST:
        raise ValueError(f"{digits:.40} has more than 64 bits")
    return int(digits)


def as_read_back(value: Any) -> Any:
    """Return a value as it reads back from JSON: lists for tuples, keys as text."""
    return json.loads(json.dumps(value))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one row a line, as safely as `write_json`, and return how many there were.

    The rows are not held together.
    """
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for row in rows:
            yield json.dumps(row, ensure_ascii=False) + "\n"
            number += 1

    write_texts(path, lines())
    return number


def read_jsonl(path: Path) -> list[Any]:
    """Return the rows of a file that `write_jsonl` wrote.

    Raises: OSError: it can't be read. ValueError: a row is no JSON that `read_json` takes.
    """
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line, parse_int=_whole_number) for line in lines]
