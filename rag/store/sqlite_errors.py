"""What SQLite's errors mean for a live store, and what can be done about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plumbrule.errors import ArtifactError

WAIT_SECONDS = 60.0
"""How long a writer waits for another."""
REMEDIES = {
    sqlite3.SQLITE_BUSY: f"another process writes for more than {WAIT_SECONDS:.0f} s: try again",
    sqlite3.SQLITE_FULL: "the disk is full: make room and run the same command again",
    sqlite3.SQLITE_READONLY: "the store is read-only for this user, and searching it, too, writes "
    "files beside it: make its folder and files writable, or copy the store",
}
REMEDIES[sqlite3.SQLITE_CANTOPEN] = REMEDIES[sqlite3.SQLITE_READONLY]
"""By SQLite's primary error code."""


def remedy_of(error: sqlite3.Error) -> str:
    """Return what can be done about an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return REMEDIES.get(code, "the disk may be full or damaged: look after it and try again")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ArtifactErrors that name the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ArtifactError(f"{path}: {error}; {remedy_of(error)}.") from None
    except sqlite3.DatabaseError as error:
        raise ArtifactError(
            f"{path} can't be read ({error}); put a backup of it in its place."
        ) from None
