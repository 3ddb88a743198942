"""What `plumbrule store` does: files in, passages and figures out. Called by its verb by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError, DataError
from rag.chunking.config import ChunkerConfig
from rag.chunks import Chunk
from rag.parsers.reading import FileReport, read_files
from rag.store.database import DATABASE
from rag.store.live import Found, LiveStore
from rag.store.opening import open_or_make, open_store
from rag.store.settings import StoreSettings

Say = Callable[[str], None]
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
    with _store(root, name, given, make=what == "add") as store:
        documents, reports = read_files(paths)
        for report in reports:
            for line in sentences(report):
                say(line)
        if not documents:
            raise DataError(f"none of {len(reports)} files holds a document; nothing was changed.")
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
) -> list[dict[str, Any]]:
    """Return the passages of a query that the principal may read, as JSON."""
    with open_store(root, name) as store:
        (found,) = store.search([query], k, principal, method, groups)
        return [row_of(one) for one in found]


def row_of(found: Found) -> dict[str, Any]:
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


def _store(root: Path, name: str, given: Mapping[str, Any], make: bool) -> LiveStore:
    """Return the store of a name, a new one where there is none and `make` is set.

    Raises: ConfigError: it was made with another setting than one of those given.
    """
    named = {key: value for key, value in given.items() if value is not None}
    own = {f.name for f in dataclasses.fields(StoreSettings)}
    try:
        chunker = ChunkerConfig(**{key: value for key, value in named.items() if key not in own})
    except ConfigError as error:  # it names settings of rag.chunker, which are options here
        raise ConfigError(OF_CHUNKER.sub(lambda m: option(m[1]), str(error))) from None
    settings = StoreSettings(
        **{key: value for key, value in named.items() if key in own}, chunker=chunker
    )
    store = open_or_make(root, name, settings) if make else open_store(root, name)
    for key, value in named.items():
        whole = store.settings if key in own else store.settings.chunker
        kept = getattr(whole, key)
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
