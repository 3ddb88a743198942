"""Live stores by name: where they lie, and what a commit of one holds. No numpy, no torch."""

from __future__ import annotations

import re
from pathlib import Path

from plumbrule.data.records import Document
from plumbrule.errors import ConfigError, DataError, listed
from plumbrule.store.layout import LIVE_STORES
from rag.store.database import DATABASE, Database

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Of a store: it names a folder."""


def require_name(name: str) -> None:
    """Raise ConfigError unless `name` can name a live store."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"store (={name!r:.80}) must be a name of letters, digits, _, . and -, at most 64, and "
            "begin with a letter or digit; choose another."
        )


def store_folder(root: Path, name: str) -> Path:
    """Return where the live store of a name lies. Raises: ConfigError: as `require_name`."""
    require_name(name)
    return root / LIVE_STORES / name


def store_names(root: Path) -> list[str]:
    """Return the names of the live stores under a store's root."""
    return sorted(path.parent.name for path in (root / LIVE_STORES).glob(f"*/{DATABASE}"))


def open_database(root: Path, name: str) -> Database:
    """Return the database of a live store.

    Raises: ConfigError: no store has that name. ArtifactError: its file can't be read.
    """
    path = store_folder(root, name) / DATABASE
    if not path.is_file():
        known = listed(store_names(root)) or "none"
        raise ConfigError(
            f"store (={name}) must be one of those in {root / 'stores'} ({known}); make it with "
            f"plumbrule store add {name} <files>."
        )
    return Database(path)


def commit_at(root: Path, name: str, number: int | None) -> tuple[int, str]:
    """Return the number and the content of a live store's commit; None: the newest.

    Raises: ConfigError: no such store or commit, or it was purged. ArtifactError: its file can't be
        read.
    """
    with open_database(root, name) as database, database.transaction():
        commit = database.commit_of(number)
    return commit.number, commit.content


def documents_at(root: Path, name: str, number: int, content: str) -> list[Document]:
    """Return the documents of a live store's commit, by id.

    Args: content: that the commit must have.
    Raises: DataError: it has another. As `commit_at` and `Database.documents`.
    """
    with open_database(root, name) as database, database.transaction():
        commit = database.commit_of(number)
        if commit.content != content:
            raise DataError(
                f"commit {number} of {database.path} is not the one that was planned with: another "
                "store lies there now; run the same command again."
            )
        return database.documents(commit)
