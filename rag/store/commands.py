"""What `plumbrule store` does: files in, passages and figures out. Called by its verb by name."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from plumbrule.config import require
from plumbrule.errors import ConfigError, DataError
from rag.chunking.config import ChunkerConfig
from rag.chunks import Chunk
from rag.documents import checked
from rag.filters import parse_filter
from rag.parsers.reading import FileReport, read_files
from rag.store.database import DATABASE
from rag.store.live import ChunkHit, LiveStore
from rag.store.naming import store_folder
from rag.store.opening import is_there, open_or_make, open_store
from rag.store.settings import StoreSettings

Say = Callable[[str], None]
OWN = frozenset(f.name for f in dataclasses.fields(StoreSettings)) - {"chunker"}
"""Settings that are no chunker's."""
OF_CHUNKER = re.compile(r"rag\.chunker\.(\w+)")


def change(
    root: Path,
    name: str,
    what: str,
    paths: Sequence[Path],
    readers: Sequence[str],
    given: Mapping[str, Any],
    say: Say,
) -> str:
    """Add the documents of files, or update them, and return a sentence.

    Args: what: add or update. given: settings of a new store; those left at None are not given.
    say: takes what is worth knowing of a file.
    Raises: DataError: no file holds a document, or as `LiveStore.add`. ConfigError: a setting, or
        one that the store was not made with.
    """
    require_principals(readers)
    named = {key: value for key, value in given.items() if value is not None}
    with ExitStack() as closed_at_end:
        fresh = what == "add" and not is_there(store_folder(root, name))
        settings = settings_given(named) if fresh else None
        store = None if fresh else closed_at_end.enter_context(_opened(root, name, named))
        documents, reports = read_files(paths)
        for report in reports:
            for line in sentences(report):
                say(line)
        if not documents:
            raise DataError(f"none of {len(reports)} files holds a document; nothing was changed.")
        checked(documents, readers)  # before a store is made for what it can't take
        if store is None:
            assert settings is not None
            store = closed_at_end.enter_context(_made(root, name, settings, named))
        done = store.add if what == "add" else store.update
        commit = done(documents, readers)
        for line in tidying(store):
            say(line)
        ruled = sum("readers" in d.meta for d in documents)
        if not readers and ruled < len(documents):
            say(
                f"{len(documents) - ruled} documents have no access rule, so nobody can find them; "
                f"name who may: plumbrule store update {name} <files> --readers <principal> ..."
            )
        skipped = sum(bool(report.problem) for report in reports)
        files = f"{len(reports) - skipped} of {len(reports)} files"
        return (
            f"commit {commit.number}: {done.__name__} of {len(documents)} documents from {files}; "
            f"{commit.documents} documents in {commit.chunks} chunks"
            f"{rules(readers, ruled, len(documents))}"
        )


def rules(readers: Sequence[str], ruled: int, number: int) -> str:
    """Return who may read what was brought.

    Args: ruled: documents with a rule of their own, of so many.
    """
    parts = []
    if readers and ruled < number:
        parts.append(f"; {number - ruled} may be read by {', '.join(sorted(set(readers)))}")
    if ruled:
        parts.append(f"; {ruled} kept a rule of their own")
    return "".join(parts)


def require_principals(readers: Sequence[str]) -> None:
    """Raise ConfigError for a reader that is a file or folder here, as a forgotten option gives."""
    for reader in readers:
        require(
            not os.path.lexists(reader),
            "--readers",
            reader,
            "be names of principals, and this is a file or folder here",
            "put files before --readers, or run the command elsewhere if a principal has that name",
        )


def sentences(report: FileReport) -> list[str]:
    """Return what is worth knowing of a file."""
    if report.problem:
        return [f"skipped {report.path}: {report.problem}"]
    return [f"{report.path}: {note}" for note in report.notes]


def tidying(store: LiveStore) -> list[str]:
    """Return a sentence where a change is committed and the segments could not be tidied."""
    if not store.untidied:
        return []
    return [
        f"the change is committed; tidying what is searched failed ({store.untidied:.200}) and "
        "will be done again by the next change"
    ]


def delete(root: Path, name: str, ids: Sequence[str], say: Say = print) -> str:
    """Delete documents by id and return a sentence. Raises: DataError: one is not there."""
    with open_store(root, name) as store:
        commit = store.delete(ids)
        for line in tidying(store):
            say(line)
        return f"commit {commit.number}: {commit.documents} documents in {commit.chunks} chunks"


def search(
    root: Path,
    name: str,
    query: str,
    k: int,
    principal: str,
    method: str,
    groups: Sequence[str] = (),
    filter: str | None = None,
    say: Say = print,
) -> list[dict[str, Any]]:
    """Return the passages of a query that the principal may read, as JSON.

    Args: filter: YAML, such as {year: {min: 1990}}; None: every passage passes. say: is told where
        fewer than k pass.
    """
    wanted = None if filter is None else parse_filter(filter, "--filter")
    with open_store(root, name) as store:
        found = store.find([query], k, principal, method, groups, wanted)
        if wanted is not None and (told := found.shortfall(k)):
            say(told)
        return [row_of(one) for one in found.passages[0]]


def row_of(found: ChunkHit) -> dict[str, Any]:
    """Return a passage as JSON; its access rule is left out."""
    chunk: Chunk = found.chunk
    row = {name: value for name, value in chunk._asdict().items() if name != "readers"}
    return {
        "number": found.number,
        "score": round(found.score, 6),
        **row,
        "metadata": dict(chunk.metadata),
    }


def stats(root: Path, name: str) -> dict[str, Any]:
    """Return what a store holds."""
    with open_store(root, name) as store:
        return store.stats()


def compact(root: Path, name: str) -> str:
    """Purge what was removed and return a sentence."""
    with open_store(root, name) as store:
        gone = store.compact()
        done = f"{gone} removed documents and earlier versions were purged"
        if store.erased:
            return done
        return (
            f"{done}; another process reads the store, so their texts are still in {DATABASE}-wal: "
            f"run plumbrule store compact {name} again when it has ended"
        )


def settings_given(named: Mapping[str, Any]) -> StoreSettings:
    """Return the settings of a new store. Raises: ConfigError: one that it can't have."""
    with _as_options():
        chunker = ChunkerConfig(**{k: value for k, value in named.items() if k not in OWN})
    settings = StoreSettings(**{k: value for k, value in named.items() if k in OWN})
    settings.chunker = chunker
    settings.check()
    return settings


@contextmanager
def _as_options() -> Iterator[None]:
    """Let an error name options, where it names settings of rag.chunker."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(OF_CHUNKER.sub(lambda m: option(m[1]), str(error))) from None


def _made(root: Path, name: str, settings: StoreSettings, named: Mapping[str, Any]) -> LiveStore:
    """Return a new store, or the one that another process has made meanwhile."""
    with _as_options():
        return _agreeing(open_or_make(root, name, settings), name, named)


def _opened(root: Path, name: str, named: Mapping[str, Any]) -> LiveStore:
    """Return the store of a name. Raises: as `_agreeing`."""
    return _agreeing(open_store(root, name), name, named)


def _agreeing(store: LiveStore, name: str, named: Mapping[str, Any]) -> LiveStore:
    """Return the store. Raises: ConfigError: it was made with another setting than those named."""
    for key, value in named.items():
        kept = getattr(store.settings if key in OWN else store.settings.chunker, key)
        if value != kept:
            store.close()
            raise ConfigError(
                f"{option(key)} (={value}) must be that which store {name} was made "
                f"with (={kept}); leave it out, or make another store."
            )
    return store


def option(setting: str) -> str:
    """Return the option of the verb that gives a setting of a new store."""
    return f"--{setting.replace('_', '-')}"
