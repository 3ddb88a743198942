"""Chunks' fields as columns: which rows a filter passes, exactly and for all rows at once.

A column holds its distinct values and each row's number among them, so a condition is decided once
per distinct value, with Python's own comparison (exact also between large integers and floats),
and then looked up for every row.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from plumbrule.config import require_choice
from plumbrule.errors import listed
from rag.chunks import Chunk
from rag.filters import (
    FIELDS,
    METADATA,
    AllOf,
    Exists,
    Filter,
    InRange,
    Not,
    OneOf,
    fields_of,
    instant_of,
)


class Column:
    """One field of rows 0..n-1.

    Args: values: of each row; None: missing. A list passes where one of its texts does.
    """

    def __init__(self, values: Iterable[Any]):
        codes: dict[tuple[str, Any], int] = {}
        rows = np.array([_code(value, codes) for value in values], dtype=np.int32)
        self._codes, self._number = rows, len(codes)
        self._equal: dict[tuple[str, Any], list[int]] = {}
        numbers: list[tuple[Any, int]] = []
        dates: list[tuple[int, int]] = []
        for key, code in codes.items():
            for member in key[1] if key[0] == "list" else (key,):
                self._equal.setdefault(member, []).append(code)
                if member[0] == "number":
                    numbers.append((member[1], code))
                elif member[0] == "text" and (instant := instant_of(member[1])) is not None:
                    dates.append((instant, code))
        self._numbers, self._dates = sorted(numbers), sorted(dates)

    @property
    def present(self) -> np.ndarray:
        """Return (n,) bool, True = the row has the field."""
        return self._codes >= 0

    def one_of(self, values: Sequence[Any]) -> np.ndarray:
        """Return (n,) bool, True = the field equals one of the values."""
        return self._look_up(code for value in values for code in self._equal.get(_key(value), ()))

    def in_range(self, wanted: InRange) -> np.ndarray:
        """Return (n,) bool, True = the field lies within the bounds."""
        ordered = self._dates if wanted.dates else self._numbers
        first, last = 0, len(ordered)
        if wanted.low is not None:
            find = bisect_right if wanted.low_open else bisect_left
            first = find(ordered, wanted.low, key=_first)
        if wanted.high is not None:
            find = bisect_left if wanted.high_open else bisect_right
            last = find(ordered, wanted.high, key=_first)
        return self._look_up(code for _, code in ordered[first:last])

    def _look_up(self, codes: Iterable[int]) -> np.ndarray:
        table = np.zeros(self._number + 1, dtype=bool)  # the last place is that of code -1
        table[list(codes)] = True
        return table[self._codes]


class Columns:
    """The fields of chunks, each made when a filter first names it.

    Args: chunks: whose places are their rows.
    """

    def __init__(self, chunks: Sequence[Chunk]):
        self._chunks = chunks
        self._columns: dict[str, Column] = {}
        self._keys: frozenset[str] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._chunks)

    def column(self, name: str) -> Column:
        """Return the column of a field; one that no chunk has is missing everywhere."""
        if name not in self._columns:
            values: Iterable[Any]
            if name in FIELDS:
                found = (getattr(chunk, name) for chunk in self._chunks)
                values = (None if value == "" else value for value in found)
            else:
                key = name.removeprefix(METADATA)
                values = (chunk.metadata.get(key) for chunk in self._chunks)
            made = Column(values)
            if name not in FIELDS and not made.present.any():
                return made  # not kept: names that were made up must not fill the memory
            self._columns[name] = made
        return self._columns[name]

    def fields(self, rows: np.ndarray) -> list[str]:
        """Return the names of fields that a filter over some rows may use.

        Args: rows: (n,) bool, True = it counts. Fields of a chunk are always among them.
        """
        if self._keys is None:
            self._keys = frozenset(key for chunk in self._chunks for key in chunk.metadata)
        names = [key if key not in FIELDS else METADATA + key for key in sorted(self._keys)]
        return [*FIELDS, *(name for name in names if is_known(self.column(name), rows))]

    def require_known(self, wanted: Filter, rows: np.ndarray, name: str = "filter") -> None:
        """Raise ConfigError for a field that none of the rows has.

        Args: rows: (n,) bool: those that the principal may read. A field that only others have is
            refused in the same words as one that there is not.
        """
        for field in fields_of(wanted):
            if field in FIELDS or is_known(self.column(field), rows):
                continue
            known = self.fields(rows)
            require_choice(f"a field of {name}", field, known, f"choose one of {listed(known)}")

    def passing(self, wanted: Filter) -> np.ndarray:
        """Return (n,) bool, True = the filter passes the row."""
        if isinstance(wanted, OneOf):
            return self.column(wanted.field).one_of(wanted.values)
        if isinstance(wanted, InRange):
            return self.column(wanted.field).in_range(wanted)
        if isinstance(wanted, Exists):
            return self.column(wanted.field).present == wanted.wanted
        if isinstance(wanted, Not):
            return ~self.passing(wanted.part)
        parts = [self.passing(part) for part in wanted.parts]
        combine = np.logical_and if isinstance(wanted, AllOf) else np.logical_or
        return combine.reduce(parts) if parts else np.full(len(self), isinstance(wanted, AllOf))


def is_known(column: Column, rows: np.ndarray) -> bool:
    """Return whether one of the rows (n,) bool has the field: the check of access to its name."""
    return bool((column.present & rows).any())


def _code(value: Any, codes: dict[tuple[str, Any], int]) -> int:
    return -1 if value is None else codes.setdefault(_key(value), len(codes))


def _key(value: Any) -> tuple[str, Any]:
    """Return what two values share exactly when they are equal."""
    if isinstance(value, bool):
        return "truth", value
    if isinstance(value, str):
        return "text", value
    if isinstance(value, int | float):
        return "number", value
    return "list", tuple(_key(one) for one in value)


def _first(pair: tuple[Any, int]) -> Any:
    return pair[0]
