"""The table of data formats: who reads a source of (format, role), and what a reader yields.

A reader takes a path and yields a `SourceRow` for each row of its source: the record it became, or
why it became none. Nothing is dropped silently: the data stage counts reasons into the data card.
How strict a reader is depends on whose file it is. The first bad row of a user's own file raises a
`DataError` that names file and row. A published set has known bad rows that nobody here can mend,
so its reader counts them; a row that is not of the format at all raises there too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.benchmark_items import BENCHMARK, ItemFormat
from plumbrule.data.records import BenchmarkItem, Record
from plumbrule.errors import ConfigError, DataError
from plumbrule.store.fingerprint import plugin_digest
from plumbrule.store.hub import folder_here, hub_data, local_path
from plumbrule.store.source_files import is_hub_data, require_readable


class SourceRow(NamedTuple):
    """What became of one row of a source.

    record: a record, or a corpus row; None where the row was left out. dropped: why. held_out:
    whether the source itself holds the row out; None where it brings no split of its own. unread:
    columns and fields of the row that hold something and of which nothing was read. conversions:
    what was done to make a record of it, where that is a choice.
    """

    record: Record | dict[str, Any] | None
    dropped: str = ""
    held_out: bool | None = None
    unread: tuple[str, ...] = ()
    conversions: tuple[str, ...] = ()


Reader = Callable[[Path], Iterator[SourceRow]]


class Format(NamedTuple):
    """A data format that Plumbrule brings: one module of this folder.

    readers: role -> reader. columns: what a row holds, in words. examples: role -> file name ->
    text, a small folder that tests read. own_split: whether the files of a path hold rows out, by
    their names alone; None: only the rows say. read_items: reads any benchmark and checks each item
    itself, so that its errors name file and row; None: it feeds no more than `readers`.
    unread_settings: of a data set, those that mean nothing here.
    """

    name: str
    readers: Mapping[str, Reader]
    columns: str
    examples: Mapping[str, Mapping[str, str]]
    own_split: Callable[[Path], bool] | None = None
    unread_settings: tuple[str, ...] = ()
    read_items: Callable[[Path, ItemFormat], Iterator[SourceRow]] | None = None


READERS: dict[tuple[str, str], Reader] = {}
"""(format, role) -> reader."""
FORMATS: dict[str, Format] = {}
"""Name -> format, of those in this folder; a plug-in registers readers alone."""
_DIGESTS: dict[tuple[str, str], str] = {}
_FILES: dict[tuple[str, str], Path] = {}
"""(format, role) -> the file that registered its reader."""


def register(format: str, role: str, reader: Reader) -> None:
    """Make `reader` the one that reads data of `format` for `role`.

    Raises: ConfigError: another file registered one for them.
    """
    _register(format, role, reader, Path(sys._getframe(1).f_globals["__file__"]))


def register_format(format: Format) -> None:
    """Register a format of this folder, with all its readers."""
    _register_format(format, Path(sys._getframe(1).f_globals["__file__"]))


def register_format_from(format: Format) -> None:
    """Register a format for the module that called the caller."""
    _register_format(format, Path(sys._getframe(2).f_globals["__file__"]))


def _register_format(format: Format, file: Path) -> None:
    FORMATS[format.name] = format
    for role, reader in format.readers.items():
        _register(format.name, role, reader, file)


def _register(format: str, role: str, reader: Reader, file: Path) -> None:
    known = _FILES.get((format, role), file)
    if known != file:
        holder = "Plumbrule" if Path(__file__).parent in known.parents else known.name
        raise ConfigError(
            f"dataset.format (={format}, for role {role}) must be registered once; {holder} "
            f"and {file.name} both do. Rename one."
        )
    READERS[format, role], _FILES[format, role] = reader, file
    _DIGESTS[format, role] = plugin_digest(str(file))


def source_digest(format: str) -> str:
    """Return a digest of the plug-ins that read a format, as they were loaded; "" for ours."""
    return ":".join(sorted({d for (name, _), d in _DIGESTS.items() if name == format and d}))


def has_reader(format: str, role: str, items: ItemFormat | None = None) -> bool:
    """Return whether a format feeds a role. items: of a benchmark's role; None: no benchmark."""
    return (format, role) in READERS or (items is not None and (format, BENCHMARK) in READERS)


def read(
    format: str, role: str, path: Path | str, items: ItemFormat | None = None
) -> Iterator[SourceRow]:
    """Return what the reader of (format, role) makes of `path`.

    A benchmark has `items` and is read by the reader of its own role, or of any benchmark.

    Raises: DataError: no such path, no such reader, what that reader raises, or an item that is not
    of the format `items`.
    """
    if not has_reader(format, role, items):
        roles = ", ".join(r for f, r in READERS if f == format) or "no role"
        raise DataError(
            f"dataset.format (={format}) must have a reader for role {role}; it feeds {roles}."
        )
    path = local_path(path)
    require_readable(path)
    if (format, role) in READERS:
        rows = READERS[format, role](path)
        return rows if items is None else checked(rows, items)
    assert items is not None  # has_reader has checked it
    known = FORMATS.get(format)
    if known is not None and known.read_items is not None:
        return known.read_items(path, items)
    return checked(READERS[format, BENCHMARK](path), items)


def checked(rows: Iterable[SourceRow], items: ItemFormat) -> Iterator[SourceRow]:
    """Yield rows of benchmark items. Raises: DataError: one is not of the format `items`."""
    for row in rows:
        if isinstance(row.record, BenchmarkItem):
            try:
                items.check(row.record)
            except DataError as error:
                raise DataError(f"item {row.record.id!r}: {error}") from None
        yield row


def brings_own_split(format: str, path: Path | str) -> bool | None:
    """Return whether a source holds rows out itself, by its files' names; None: not known.

    Opens no file and downloads none, so planning may ask.
    Raises: DataError: the path or the folder can't be read.
    """
    if is_hub_data(path):
        here = folder_here(hub_data(str(path)))
        if here is None:
            return None
        path = here
    require_readable(Path(path))
    known = FORMATS.get(format)
    return known.own_split(Path(path)) if known is not None and known.own_split else None
