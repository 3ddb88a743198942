"""How a rollout's turns and search calls are kept: as columns of its file, and in a checkpoint.

A row's `passages` are all that it was shown, by its prompt first and then by the answers to its
calls, so a call's passages are a number of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from plumbrule.errors import DataError
from plumbrule.protocols import SearchCall, Searching

COLUMNS = ("turns", "search_queries", "num_search_passages", "malformed", "unanswered")
"""Columns more, of a policy that may search: the text of its turns, the query of each call, how
many passages it was shown (the last of the row's `passages`), and what did not work."""
COLUMN_TYPES = {
    "turns": (1, pa.types.is_string, "lists of text"),
    "search_queries": (1, pa.types.is_string, "lists of text"),
    "num_search_passages": (1, pa.types.is_int64, "lists of whole numbers"),
    "malformed": (0, pa.types.is_int64, "whole numbers"),
    "unanswered": (0, pa.types.is_int64, "whole numbers"),
}
"""Column -> (how deep in lists, the type there, in words)."""


def columns_of(searching: Sequence[Searching]) -> dict[str, Any]:
    """Return `COLUMNS`."""
    texts, numbers = pa.list_(pa.string()), pa.list_(pa.int64())
    shown = [[len(call.passages) for call in row.calls] for row in searching]
    return {
        "turns": pa.array([list(row.turns) for row in searching], texts),
        "search_queries": pa.array([[c.query for c in row.calls] for row in searching], texts),
        "num_search_passages": pa.array(shown, numbers),
        "malformed": [row.malformed for row in searching],
        "unanswered": [row.unanswered for row in searching],
    }


def read_columns(rows: Mapping[str, list[Any]], path: Path, redo: str) -> list[Searching]:
    """Return what `columns_of` wrote.

    Args: redo: what to do about a damaged file.
    Raises: DataError: more passages were shown in answer to calls than the row has.
    """
    found = []
    columns = (rows[name] for name in ("passages", *COLUMNS))
    for number, row in enumerate(zip(*columns, strict=True), 1):
        passages, turns, queries, shown, malformed, unanswered = row
        if len(queries) != len(shown) or min(shown, default=0) < 0 or sum(shown) > len(passages):
            raise DataError(
                f"num_search_passages (={shown}) must be one number for each of {len(queries)} "
                f"calls and name at most the row's {len(passages)} passages; {redo}",
                path,
                number,
            )
        start, calls = len(passages) - sum(shown), []
        for query, size in zip(queries, shown, strict=True):
            calls.append(SearchCall(query, tuple(passages[start : start + size])))
            start += size
        found.append(Searching(tuple(turns), tuple(calls), malformed, unanswered))
    return found
