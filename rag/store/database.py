"""The source of truth of a live store: one SQLite file. All SQL stands here; no numpy, no torch.

SQLite, because a change touches texts, vectors, access rules and the commit counter at once, and
its transaction makes all of it durable or none of it, whatever moment a process or the power dies;
an Arrow file has no transaction. In WAL mode readers go on while one writer writes, and every read
transaction sees one commit whole. `synchronous=FULL`: a commit that was reported is on the disk.
WAL needs shared memory, so a store lies on a local disk and not on NFS.

    commits     number (1, 2, ...), what it did, how much lives then, a digest of all that lives
    documents   number, id, the record as JSON, its digest, commit of its birth and of its removal
    chunks      number, document, access rule, the chunk as JSON, its vector, birth and removal
    rules       number, the principals that may read

Numbers are 64-bit, rise by `AUTOINCREMENT` and are never used again, also after a purge. A removal
marks rows and deletes none; `purge` deletes what was removed, and then commits before it can't be
read any more; its bytes are overwritten, and `empty_log` empties the log that holds them too. The
content of a commit is the sum, modulo 2^256, of the sha256 of the documents that
live, so a change costs its own documents only and the order of changes does not count.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.records import Document, from_dict, to_dict
from plumbrule.errors import ArtifactError, ConfigError, DataError
from rag.chunks import Chunk, from_row, to_row
from rag.store.sqlite_errors import WAIT_SECONDS, explained

DATABASE = "store.db"
FORMAT = 1
ERASE_SECONDS = 5.0
"""How long a purge waits for readers, so that the log can be emptied."""
MODULUS = 2**256
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE commits (
    number INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL, documents INTEGER NOT NULL,
    chunks INTEGER NOT NULL, content TEXT NOT NULL);
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, record TEXT NOT NULL,
    digest TEXT NOT NULL, added INTEGER NOT NULL, removed INTEGER);
CREATE UNIQUE INDEX living_documents ON documents (id) WHERE removed IS NULL;
CREATE INDEX removed_documents ON documents (removed) WHERE removed IS NOT NULL;
CREATE TABLE rules (number INTEGER PRIMARY KEY AUTOINCREMENT, readers TEXT NOT NULL UNIQUE);
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, rule INTEGER NOT NULL,
    row TEXT NOT NULL, vector BLOB NOT NULL, added INTEGER NOT NULL, removed INTEGER);
CREATE INDEX chunks_of_documents ON chunks (document);
CREATE INDEX removed_chunks ON chunks (removed) WHERE removed IS NOT NULL;
"""


class Entry(NamedTuple):
    """A document with its chunks, ready to be stored."""

    document: Document
    chunks: Sequence[Chunk]
    vectors: Sequence[bytes]
    """One for each chunk: little-endian float32."""


class ChunkRow(NamedTuple):
    """What an index is made from."""

    number: int
    rule: int
    chunk: Chunk
    vector: bytes


class Commit(NamedTuple):
    """A state of the store; number 0 is the empty one before the first commit."""

    number: int
    what: str
    documents: int
    """That live."""
    chunks: int
    content: str
    """64 hex digits: a digest of the documents that live."""


class Database:
    """An open database; for one thread. Close it, or use it in a `with`.

    Args: path: of the file, which must be one.
    Raises: ArtifactError: it is missing, damaged or of a later version.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise ArtifactError(f"{path} must be a live store's database; there is none.")
        with self._explained():
            self._sql = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
            self._sql.execute("PRAGMA journal_mode = WAL")
            self._sql.execute("PRAGMA synchronous = FULL")
            self._sql.execute("PRAGMA secure_delete = ON")
            known = self._sql.execute("SELECT name FROM sqlite_master WHERE name = 'about'")
            if known.fetchone() is None:
                raise ArtifactError(
                    f"{path} holds no store: making it was cut off; run the same command again."
                )
            about = self.about()
        if about["format"] != FORMAT:
            raise ArtifactError(
                f"{path} (=format {about['format']}) must have format {FORMAT}; use the version of "
                "Plumbrule that made it, or make a new store from the documents."
            )

    @classmethod
    def create(cls, path: Path, about: Mapping[str, Any]) -> Database:
        """Return a new, empty database that keeps `about`.

        Raises: ArtifactError: there is a store already.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            explained(path),
            closing(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)) as sql,
        ):
            sql.execute("PRAGMA journal_mode = WAL")
            sql.execute("PRAGMA synchronous = FULL")
            sql.execute("PRAGMA secure_delete = ON")
            sql.execute("BEGIN IMMEDIATE")
            if sql.execute("SELECT name FROM sqlite_master").fetchone() is not None:
                raise ArtifactError(f"{path} must be new; it holds a store already.")
            for statement in SCHEMA.split(";\n"):
                if statement.strip():
                    sql.execute(statement)
            facts = {**about, "format": FORMAT, "uuid": uuid.uuid4().hex, "purged": 0}
            sql.executemany(
                "INSERT INTO about VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in facts.items()],
            )
            sql.execute("COMMIT")
        return cls(path)

    def __enter__(self) -> Database:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file; a change that was not committed is not there."""
        self._sql.close()

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.path)

    @contextmanager
    def transaction(self, writes: bool = False) -> Iterator[None]:
        """Let all reads within see one commit, and all writes within happen at once or not."""
        with self._explained():
            self._sql.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                yield
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise
            self._sql.execute("COMMIT")

    def about(self) -> dict[str, Any]:
        """Return what was given when it was made, and `format`, `uuid` and `purged`."""
        return {name: json.loads(v) for name, v in self._sql.execute("SELECT * FROM about")}

    def newest(self) -> Commit:
        """Return the newest commit."""
        found = self._sql.execute("SELECT * FROM commits ORDER BY number DESC LIMIT 1").fetchone()
        return Commit(*found) if found else Commit(0, "", 0, 0, "0" * 64)

    def commit_of(self, number: int | None) -> Commit:
        """Return the commit of a number; None: the newest.

        Raises: ConfigError: there is none, or what it held was purged.
        """
        newest, purged = self.newest(), self.about()["purged"]
        number = newest.number if number is None else number
        if not 1 <= number <= newest.number:
            has = f"1 to {newest.number}" if newest.number else "none yet"
            raise ConfigError(f"commit (={number}) of {self.path} must be one of {has}; change it.")
        if number < purged:
            raise ConfigError(
                f"commit (={number}) of {self.path} must be at least {purged}, since what was "
                "removed before it was purged; take a later one."
            )
        row = self._sql.execute("SELECT * FROM commits WHERE number = ?", (number,)).fetchone()
        return Commit(*row)

    def change(self, entries: Sequence[Entry], remove: Iterable[str], what: str) -> Commit:
        """Remove documents by id, add others, and return the commit; all of it or nothing.

        A document that is removed and added is a new version of it, with new numbers.

        Raises: DataError: an id to remove is not there, or one to add is there already.
        """
        with self.transaction(writes=True):
            before = self.newest()
            content, number = int(before.content, 16), before.number + 1
            documents, chunks = before.documents, before.chunks
            for id in remove:
                gone = self._living(id)
                if gone is None:
                    raise DataError(
                        f"document {id!r:.80} must be in the store to be {what}d; add it first, or "
                        "correct the id."
                    )
                of_document, digest = gone
                sql = "UPDATE documents SET removed = ? WHERE number = ?"
                self._sql.execute(sql, (number, of_document))
                sql = "UPDATE chunks SET removed = ? WHERE document = ? AND removed IS NULL"
                chunks -= self._sql.execute(sql, (number, of_document)).rowcount
                content, documents = content - int(digest, 16), documents - 1
            for entry in entries:
                if self._living(entry.document.id) is not None:
                    raise DataError(
                        f"document {entry.document.id!r:.80} must not be in the store yet, or "
                        "twice in what is added; update it, or give it an id of its own."
                    )
                record = canonical(entry.document)
                digest = hashlib.sha256(record.encode()).hexdigest()
                sql = "INSERT INTO documents (id, record, digest, added) VALUES (?, ?, ?, ?)"
                row = (entry.document.id, record, digest, number)
                added = self._sql.execute(sql, row).lastrowid
                self._sql.executemany(
                    "INSERT INTO chunks (document, rule, row, vector, added) "
                    "VALUES (?, ?, ?, ?, ?)",
                    [
                        (added, self._rule(c.readers), json.dumps(to_row(c)), vector, number)
                        for c, vector in zip(entry.chunks, entry.vectors, strict=True)
                    ],
                )
                content, documents = content + int(digest, 16), documents + 1
                chunks += len(entry.chunks)
            commit = Commit(number, what, documents, chunks, f"{content % MODULUS:064x}")
            self._sql.execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?)", commit)
        return commit

    def _living(self, id: str) -> tuple[int, str] | None:
        """Return (number, digest) of the living document of an id."""
        sql = "SELECT number, digest FROM documents WHERE id = ? AND removed IS NULL"
        name = id.encode("utf-8", "replace").decode("utf-8")  # what is no Unicode is never there
        return self._sql.execute(sql, (name,)).fetchone()

    def _rule(self, readers: Sequence[str]) -> int:
        """Return the number of an access rule, which is entered where it is new."""
        text = json.dumps(list(readers))
        self._sql.execute("INSERT OR IGNORE INTO rules (readers) VALUES (?)", (text,))
        return self._sql.execute("SELECT number FROM rules WHERE readers = ?", (text,)).fetchone()[
            0
        ]

    def absent(self, ids: Iterable[str]) -> list[str]:
        """Return those of `ids` that no living document has."""
        return [id for id in ids if self._living(id) is None]

    def rules(self) -> dict[int, tuple[str, ...]]:
        """Return the principals that may read, by number of the rule."""
        found = self._sql.execute("SELECT number, readers FROM rules")
        return {number: tuple(json.loads(readers)) for number, readers in found}

    def living_chunks(self, after: int, until: int | None = None) -> Iterator[ChunkRow]:
        """Yield the living chunks with after < number <= until (None: all), by number."""
        sql = (
            "SELECT number, rule, row, vector FROM chunks "
            "WHERE number > ? AND number <= ? AND removed IS NULL ORDER BY number"
        )
        last = 2**63 - 1 if until is None else until
        for number, rule, row, vector in self._sql.execute(sql, (after, last)):
            yield ChunkRow(number, rule, from_row(json.loads(row)), vector)

    def count_living_chunks(self, after: int, until: int) -> int:
        """Return how many chunks `living_chunks` yields."""
        sql = "SELECT count(*) FROM chunks WHERE number > ? AND number <= ? AND removed IS NULL"
        return self._sql.execute(sql, (after, until)).fetchone()[0]

    def last_chunk(self) -> int:
        """Return the highest number that a chunk was ever given; 0: none was."""
        sql = "SELECT seq FROM sqlite_sequence WHERE name = 'chunks'"
        found = self._sql.execute(sql).fetchone()
        return found[0] if found else 0

    def removed_chunks(self, after_commit: int) -> list[int]:
        """Return the numbers of the chunks that commits behind that one removed."""
        sql = "SELECT number FROM chunks WHERE removed > ?"
        return [number for (number,) in self._sql.execute(sql, (after_commit,))]

    def chunks(self, numbers: Sequence[int]) -> dict[int, Chunk]:
        """Return chunks by number, removed ones too; without those that were purged."""
        found = {}
        for number in numbers:
            sql = "SELECT row FROM chunks WHERE number = ?"
            row = self._sql.execute(sql, (int(number),)).fetchone()
            if row is not None:
                found[int(number)] = from_row(json.loads(row[0]))
        return found

    def chunks_between(self, first: int, last: int) -> dict[int, Chunk]:
        """Return the chunks with first <= number <= last that were not purged, without texts."""
        sql = "SELECT number, row FROM chunks WHERE number BETWEEN ? AND ?"
        return {
            number: from_row(json.loads(row))._replace(text="")
            for number, row in self._sql.execute(sql, (first, last))
        }

    def documents(self, commit: Commit) -> list[Document]:
        """Return the documents that lived at a commit, by id.

        Raises: ArtifactError: they are not what the commit noted.
        """
        sql = (
            "SELECT record FROM documents "
            "WHERE added <= ? AND (removed IS NULL OR removed > ?) ORDER BY id"
        )
        rows = self._sql.execute(sql, (commit.number, commit.number))
        found, content = [], 0
        for (record,) in rows:
            found.append(from_dict(Document, json.loads(record)))
            content += int(hashlib.sha256(record.encode()).hexdigest(), 16)
        if f"{content % MODULUS:064x}" != commit.content:
            raise ArtifactError(
                f"{self.path}: the documents of commit {commit.number} are not those that were "
                "committed; put a backup of the file in its place."
            )
        return found

    def purge(self, commit: int) -> int:
        """Delete what commits up to that one removed; those before it can't be read any more.

        Returns how many documents, earlier versions too, are gone.
        """
        with self.transaction(writes=True):
            self._sql.execute("DELETE FROM chunks WHERE removed <= ?", (commit,))
            gone = self._sql.execute("DELETE FROM documents WHERE removed <= ?", (commit,)).rowcount
            sql = "UPDATE about SET value = ? WHERE name = 'purged'"
            self._sql.execute(sql, (json.dumps(commit),))
        return gone

    def empty_log(self) -> bool:
        """Move all that was written into the database's file and cut its log to nothing.

        A purge overwrites what it deletes with zeros (`secure_delete`), but the log (`-wal`) keeps
        what was written to it until it is emptied. Returns False where another process that reads
        or writes does not let it be emptied.
        """
        with self._explained():
            self._sql.execute(f"PRAGMA busy_timeout = {int(1000 * ERASE_SECONDS)}")
            try:
                (busy, *_) = self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._sql.execute(f"PRAGMA busy_timeout = {int(1000 * WAIT_SECONDS)}")
        return busy == 0

    def removed_documents(self) -> int:
        """Return how many removed documents, older versions too, can still be read."""
        sql = "SELECT count(*) FROM documents WHERE removed IS NOT NULL"
        return self._sql.execute(sql).fetchone()[0]


def canonical(document: Document) -> str:
    """Return a document's JSON in one form, which its digest is of."""
    return json.dumps(to_dict(document), sort_keys=True, ensure_ascii=True)
