"""Tables of HTML: which rows are the header, and which cell stands in which column of each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MOST_COLUMNS = 1000
"""Columns of a table, as many as the HTML standard lets one cell span."""


def rows_of(table: Any) -> list[Any]:
    """Return the rows of a table, not of those in its cells."""
    return [row for row in table.find_all("tr") if row.find_parent("table") is table]


def header_rows(rows: list[Any]) -> list[bool]:
    """Return for each row whether it is of the header: in thead, else the first ones of th alone.

    A table of nothing but th has one row of header.
    """
    head = [row.parent.name == "thead" for row in rows]
    if any(head):
        return head
    first = [not row.find_all("td", recursive=False) for row in rows]
    number = first.index(False) if False in first else 1
    return [place < number for place in range(len(rows))]


def is_layout(table: Any) -> bool:
    """Return whether a table only places others: it holds some, and has no header."""
    return table.find("table") is not None and not any(header_rows(rows_of(table)))


def grid(rows: list[Any], text_of: Callable[[Any], str]) -> list[list[str | None]]:
    """Return the cells by row and column; one that spans columns is followed by None.

    One that spans rows stands in each, as far as its part of the table goes.

    Args: text_of: the text of a cell.
    """
    filled: list[dict[int, str | None]] = [{} for _ in rows]
    for number, row in enumerate(rows):
        column = 0
        for cell in row.find_all(["td", "th"], recursive=False):
            while column in filled[number]:
                column += 1
            if column >= MOST_COLUMNS:
                break
            text = text_of(cell)
            wide = min(max(span(cell, "colspan"), 1), MOST_COLUMNS - column)
            tall = span(cell, "rowspan") or len(rows)  # 0: to the end of its part
            for below in range(number, min(number + tall, len(rows))):
                if rows[below].parent is not row.parent:
                    break
                filled[below].update(
                    {column + n: None if n else text for n in range(wide)},
                )
            column += wide
    return [[row.get(column, "") for column in range(max(row, default=-1) + 1)] for row in filled]


def span(cell: Any, name: str) -> int:
    """Return how many rows or columns a cell spans, 1 if it does not say."""
    said = str(cell.get(name, "1")).strip()
    return int(said) if said.isascii() and said.isdigit() and len(said) < 6 else 1
