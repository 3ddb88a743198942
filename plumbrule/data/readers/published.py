"""What the readers of published rankings share: their rows by name, their roles, their names.

A published set has rows that nobody here can mend, so what a reader can't use is counted by its
reason; a row that is not of the format at all is an error with file and row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.data.readers.registry import Format, SourceRow, register_format_from
from plumbrule.data.records import Message, Preference
from plumbrule.data.roles import to_role
from plumbrule.data.row_checks import checked_rows
from plumbrule.data.row_files import TABLE_ENDINGS
from plumbrule.errors import DataError
from plumbrule.store.source_files import files_under

ROLES = ("corpus", "demonstrations", "preferences", "prompts")
Rankings = Callable[[Path], Iterator[SourceRow]]


def named_rows(
    path: Path, check: Callable[[Mapping[str, Any]], None], file_name: str = ""
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (row, its name) of a table, or of all tables of a folder; `check` raises for a bad one.

    The name is the file's, inside `path` and without endings, and the row's number.

    Args: file_name: of the tables of a folder; "": any.
    Raises: DataError: no table, or what `check` raises, with file and row.
    """
    files = [path]
    if path.is_dir():
        files = [
            file
            for file in files_under(path)
            if file.name.endswith(TABLE_ENDINGS) and file_name in ("", file.name)
        ]
    if not files:
        raise DataError(
            f"no {file_name or 'table (' + ', '.join(TABLE_ENDINGS) + ')'} is here; name a file.",
            path,
        )
    for file in files:
        inside = file.relative_to(path).parent if path.is_dir() else Path()
        name = str(inside / file.name.split(".")[0])
        for number, row in checked_rows(file, check):
            yield row, f"{name}:{number}"


EQUAL = "the answers are equal"
EMPTY = "an answer is empty"
ONE = "fewer than two answers are left"
_SIDES = {"train": False, "training": False, "validation": True, "valid": True, "val": True}


def split_files(
    path: Path, endings: tuple[str, ...] = TABLE_ENDINGS
) -> list[tuple[Path, bool | None]]:
    """Return (table, whether it is held out) of a file or folder, by the files' names.

    A name begins with train, or with validation, valid or val. Where both are there, tables of
    other names (a test set) are not read; else all are read and none is held out.
    Raises: DataError: no table.
    """
    if path.is_file():
        return [(path, None)]
    files = [file for file in files_under(path) if file.name.endswith(endings)]
    if not files:
        raise DataError(f"no table ({', '.join(endings)}) is here; name a file.", path)
    sides = {file: _SIDES.get(re.split(r"[^a-z]", file.name.lower())[0]) for file in files}
    if set(sides.values()) >= {True, False}:
        return [(file, side) for file, side in sides.items() if side is not None]
    return [(file, None) for file in files]


def holds_out(path: Path) -> bool:
    """Return whether the files of a path hold rows out, by their names."""
    return any(side for _, side in split_files(path))


def ranks_by(values: Sequence[float]) -> tuple[int, ...]:
    """Return the rank of each value, the highest 1, without holes; equal ones tie."""
    order = sorted(set(values), reverse=True)
    return tuple(order.index(value) + 1 for value in values)


def ranked(
    id: str,
    messages: Sequence[Message],
    answers: Sequence[str],
    values: Sequence[float],
    **fields: Any,
) -> Preference | str:
    """Return the ranking of answers, the highest value best, or why there is none.

    Of equal answers the first stays, unless that leaves fewer than two; an empty one is none.
    """
    kept: dict[str, float] = {}
    for answer, value in zip(answers, values, strict=True):
        text = answer.strip()
        if text:
            kept.setdefault(text, value)
    if len(kept) < 2:
        texts = [answer.strip() for answer in answers]
        if len(texts) < 2:
            return ONE
        return EMPTY if not all(texts) else EQUAL
    return Preference(id, tuple(messages), tuple(kept), ranks_by(list(kept.values())), **fields)


def as_row(found: Preference | str, held_out: bool | None = None, **fields: Any) -> SourceRow:
    """Return the row of a ranking, or of the reason that there is none."""
    if isinstance(found, str):
        return SourceRow(None, found, held_out)
    return SourceRow(found, held_out=held_out, **fields)


def texts_of(row: Mapping[str, Any], name: str) -> list[str]:
    """Return a column that is a list of texts, stripped.

    Raises: DataError: it is no such list, or one of them is empty.
    """
    texts = row.get(name)
    if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"{name} (={texts!r:.80}) must be a list of texts.")
    return [text.strip() for text in texts]


def subset_name(text: str) -> str:
    """Return a subset's name as metrics have it: lower case, `_` in place of spaces and `/`."""
    return re.sub(r"[^a-z0-9-]+", "_", text.strip().lower()).strip("_")


def register_ranked(
    name: str,
    rankings: Rankings,
    columns: str,
    files: Mapping[str, str],
    *,
    own_split: Callable[[Path], bool] | None = None,
) -> None:
    """Register a format of rankings for every role that a ranking feeds.

    Args: files: file name -> text, a small folder of the format, for tests.
    """

    def reader_of(role: str) -> Rankings:
        def read(path: Path) -> Iterator[SourceRow]:
            for row in rankings(path):
                is_ranking = isinstance(row.record, Preference)
                if role == "preferences" or not is_ranking:
                    yield row
                else:
                    assert isinstance(row.record, Preference)
                    yield row._replace(record=to_role(row.record, role))

        return read

    register_format_from(
        Format(
            name=name,
            readers={role: reader_of(role) for role in ROLES},
            columns=columns,
            examples=dict.fromkeys(ROLES, files),
            own_split=own_split,
        )
    )
