"""Format `classification`: a `text` (or `prompt`) and its `label`, in each row of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import named_rows
from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import DataError


def read_classification(path: Path) -> Iterator[SourceRow]:
    """Yield an item per row.

    Raises: DataError: no table, or a row without text or label.
    """
    for row, id in named_rows(path, _check):
        fields = {"question": _text(row), "label": row["label"].strip()}
        unread = tuple(name for name in row if name not in ("text", "prompt", "label"))
        yield SourceRow(BenchmarkItem(id, "classification", fields, id), unread=unread)


def _check(row: Mapping[str, Any]) -> None:
    if not _text(row):
        raise DataError("a row must hold the text text (or prompt).")
    label = row.get("label")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"label (={label!r:.40}) must be a word; numbers are no answer to a text.")


def _text(row: Mapping[str, Any]) -> str:
    given = row.get("text", row.get("prompt"))
    return given.strip() if isinstance(given, str) else ""


register_format(
    Format(
        name="classification",
        readers={"classification": read_classification},
        columns="text or prompt, label",
        examples={
            "classification": {
                "test.jsonl": '{"text": "A fine film. Good or bad?", "label": "good"}\n'
            }
        },
        unread_settings=("validation_share", "split_seed", "annotators", "ties"),
    )
)
