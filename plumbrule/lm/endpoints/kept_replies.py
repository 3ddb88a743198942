"""Replies of a service that no fingerprint can see, kept so that nobody is asked twice.

One JSON object a line, with the `key` of what was asked and a digest of the row. Each process
appends to a file of its own, and reads those of all before it asks.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.data.strict_json import parse_json
from plumbrule.store.content_digests import is_as_written, with_digest


def key_of(*asked: Any) -> str:
    """Return the key of a question: a digest of all that it is made of."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def files_of(own: Path) -> list[Path]:
    """Return the files of all processes' replies, which may have been more; `own` comes last.

    Two processes may have asked the same and got different replies. Each then goes on with its own.
    """
    return sorted(own.parent.glob("*.jsonl"), key=lambda path: (path == own, path))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, without lines that were cut off while they were written, and those
    that changed since: they are asked for again.
    """
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("key"), str) and is_as_written(row):
            yield row


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to a file, each with its digest, and wait until they are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n")  # the last line may have been cut off
        for row in rows:
            file.write(json.dumps(with_digest(dict(row))) + "\n")
        file.flush()
        os.fsync(file.fileno())
