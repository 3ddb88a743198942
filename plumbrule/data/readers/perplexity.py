"""Format `perplexity`: texts, one under `text` in each row of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import named_rows
from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import BenchmarkItem
from plumbrule.data.row_checks import require_texts


def read_texts(path: Path) -> Iterator[SourceRow]:
    """Yield an item per row, its text as it is; a blank one is left out.

    Raises: DataError: no table, or a row without `text`.
    """
    for row, id in named_rows(path, _check):
        if not row["text"].strip():
            yield SourceRow(None, "the text is empty")
            continue
        unread = tuple(name for name in row if name != "text")
        yield SourceRow(BenchmarkItem(id, "perplexity", {"text": row["text"]}, id), unread=unread)


def _check(row: Mapping[str, Any]) -> None:
    require_texts(row, "text")


register_format(
    Format(
        name="perplexity",
        readers={"perplexity": read_texts},
        columns="text",
        examples={"perplexity": {"test.jsonl": '{"text": "Ada wrote notes."}\n'}},
        unread_settings=("validation_share", "split_seed", "annotators", "ties"),
    )
)
