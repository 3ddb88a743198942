"""A live store: documents are added, updated and deleted while it is searched.

    <store>/stores/<name>/store.db     all that is true (`database.py`)
                         /encoder/     a copy of the encoder, so that a query meets the same one
                         /derived/     segments (`derived.py`); may be deleted at any time

Each change is one commit: all of it is there or nothing. Texts are cut and encoded before the
database is touched, so a writer holds it for as long as rows take. A search first catches up with
the newest commit, of whatever process, and sees it whole.

A search is made for a principal. A chunk may be found if its rule names that principal or
everyone, and a chunk without a rule by nobody. What may not be found takes no part: not in the
ranking, not in BM25's frequencies, not in how many passages come back. Whoever may read the store's
files on the disk can read all of it: the rule holds for what is asked of the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plumbrule.config import require, require_choice, require_range
from plumbrule.data.records import Document
from plumbrule.errors import ArtifactError, DataError, listed
from rag.chunking.choosing import chunker_of
from rag.chunking.cutting import Chunker, Cutting
from rag.chunks import EVERYONE, Chunk, chunks_at
from rag.documents import checked
from rag.filters import Filter, filter_of
from rag.index.encoders import Encoder, content_of
from rag.options import DENSE_INDEXES, HASHING
from rag.store.asking import require_principal, require_queries
from rag.store.database import DATABASE, Commit, Database, Entry
from rag.store.derived import DerivedIndex
from rag.store.filtering import ChunkFields
from rag.store.ranking import METHODS, StoreRanking
from rag.store.segments import APPROXIMATE_FROM
from rag.store.settings import StoreSettings

ENCODER, DERIVED, TOKENIZER = "encoder", "derived", "tokenizer"
BATCH = 64
"""Chunks that are encoded together."""
TRIES = 3


class ChunkHit(NamedTuple):
    """A chunk that a search found; number: its 64-bit id, never used again."""

    number: int
    score: float
    chunk: Chunk


class Searched(NamedTuple):
    """What a search found for each query, and how many chunks it could have found."""

    passages: list[list[ChunkHit]]
    num_passing: int
    """Chunks that the principal may read and the filter passes."""

    def shortfall(self, k: int) -> str | None:
        """Return a sentence where fewer than k pass; None: enough do."""
        if self.num_passing >= k:
            return None
        return f"{self.num_passing} passages that may be read pass the filter, fewer than k (={k})"


class LiveStore:
    """An open live store; for one thread. Close it, or use it in a `with`.

    Args: folder: of the store. settings: as it was made with. encoder: of its vectors.
    approximate_from: chunks from which a segment has an index of the type `dense_index`.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        settings: StoreSettings,
        encoder: Encoder,
        approximate_from: int = APPROXIMATE_FROM,
    ):
        self.folder, self.settings = folder, settings
        self._database, self._encoder = database, encoder
        self.erased = True
        """Whether no file holds what the last `compact` purged."""
        self._index = DerivedIndex(
            folder / DERIVED,
            database,
            DENSE_INDEXES[settings.dense_index],
            settings.dense_index,
            encoder.dimensions,
            approximate_from,
        )
        is_hashing = settings.encoder == HASHING
        self._ranking = StoreRanking(self._index, ChunkFields(database), encoder, is_hashing)

    def __enter__(self) -> LiveStore:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @cached_property
    def _chunker(self) -> Chunker:
        """Return what cuts documents; a search does without.

        Raises: ArtifactError: the tokenizer's file is not the one that the store was made with.
        """
        settings, chunker = self.settings, self.settings.chunker
        with self._database.transaction():
            made = self._database.about().get("tokenizer")
        if made is not None:
            copy = self.folder / TOKENIZER
            if content_of(copy) != made:
                raise ArtifactError(
                    f"{copy} must hold the tokenizer that the store was made with "
                    f"({chunker.tokenizer}, digest {made}); put its file back."
                )
            chunker = replace(chunker, tokenizer=str(copy))
        words = (settings.chunk_words, settings.overlap_words)
        return chunker_of(Cutting(*words, chunker, self._encoder.encode_passages))

    # Changes

    def add(self, documents: Iterable[Document], readers: Sequence[str] = ()) -> Commit:
        """Add documents that are not there yet, and return the commit.

        Args: readers: who may read those that have no rule of their own (`meta["readers"]`).
        No document: no new commit.
        Raises: DataError: a document is there already or given twice; nothing was added.
        """
        return self._change(documents, readers, "add")

    def update(self, documents: Iterable[Document], readers: Sequence[str] = ()) -> Commit:
        """Put documents in the place of those with their ids, rules included.

        Raises: DataError: a document is not there, or is given twice; nothing was changed.
        """
        return self._change(documents, readers, "update")

    def delete(self, ids: Iterable[str]) -> Commit:
        """Delete documents by id. No id: no new commit.

        Raises: DataError: one is not there; nothing was deleted.
        """
        if isinstance(ids, str):
            raise DataError(f"ids (={ids!r:.80}) must be a list of texts; put it in brackets.")
        unique = list(dict.fromkeys(ids))
        if not unique:
            return self.commit
        commit = self._database.change([], unique, "delete")
        self._settle()
        return commit

    def _change(self, documents: Iterable[Document], readers: Sequence[str], what: str) -> Commit:
        ruled = checked(documents, readers)
        if not ruled:
            return self.commit
        ids = [document.id for document in ruled]
        self._require_state(ids, what)  # before the encoder works on what will be refused
        entries = self._entries(ruled)
        commit = self._database.change(entries, ids if what == "update" else [], what)
        self._settle()
        return commit

    def _require_state(self, ids: Sequence[str], what: str) -> None:
        """Raise DataError unless all documents are there to be updated, or none to be added."""
        with self._database.transaction():
            absent = set(self._database.absent(ids))
        wrong = [id for id in ids if (id in absent) == (what == "update")]
        if wrong:
            rule = (
                "be in the store already; add them" if what == "update" else "be new; update them"
            )
            raise DataError(f"documents (={listed(wrong)}) must {rule}, or correct their ids.")

    def _entries(self, documents: Sequence[Document]) -> list[Entry]:
        """Return documents cut and encoded."""
        chunks = [chunks_at(document, self._chunker(document)) for document in documents]
        texts = [chunk.searched for of_document in chunks for chunk in of_document]
        rows = iter(self._encoded(texts))
        return [
            Entry(document, of_document, [next(rows).tobytes() for _ in of_document])
            for document, of_document in zip(documents, chunks, strict=True)
        ]

    def _encoded(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts, (n, d) little-endian float32, those of like length together.

        Raises: DataError: one is not finite.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), self._encoder.dimensions), dtype="<f4")
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            vectors[rows] = self._encoder.encode_passages([texts[row] for row in rows])
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise DataError(
                "the encoder's vectors must be finite; take another encoder, or leave this out.",
                text=texts[bad],
            )
        return vectors

    def _settle(self) -> None:
        """Make the change visible here, then tidy the segments.

        The change is committed, so nothing here may fail: a search catches up again, and the next
        change tidies again (`untidied`).
        """
        try:
            self._index.catch_up()
        except (OSError, ArtifactError) as error:
            self._index.untidied = str(error)
            return
        self._index.tidy()

    @property
    def untidied(self) -> str:
        """Return why the segments could not be tidied after the last change; "": they could."""
        return self._index.untidied

    def compact(self) -> int:
        """Make one segment of everything and purge what was removed; return how many documents.

        Commits before the newest can't be made an index of any more. What was purged is
        overwritten in the database, and its log is emptied, unless a reader does not let it:
        `erased` says so.
        Raises: ConfigError: another process is at it.
        """
        gone = self._index.maintain(whole=True)
        self.erased = self._database.empty_log()
        return gone

    # Search

    def search(
        self,
        queries: Sequence[str],
        k: int,
        principal: str,
        method: str = "hybrid",
        groups: Sequence[str] = (),
        filter: Filter | Mapping[str, Any] | str | None = None,
    ) -> list[list[ChunkHit]]:
        """Return up to k chunks per query that the principal may read, best first.

        All queries are answered at one commit. Equal scores stand in the order of numbers.
        Args: groups: that the principal belongs to, whose rules hold for it as well. filter: that
            chunks must pass (`rag/filters.py`), exactly whatever the type of index; None: all do.
        Raises: ConfigError: k below 1, an unknown method, no principal, or a filter that is none or
            of a field that no chunk has which the principal may read.
        """
        return self.find(queries, k, principal, method, groups, filter).passages

    def find(
        self,
        queries: Sequence[str],
        k: int,
        principal: str,
        method: str = "hybrid",
        groups: Sequence[str] = (),
        filter: Filter | Mapping[str, Any] | str | None = None,
    ) -> Searched:
        """Return what `search` returns, and how many chunks could have been found."""
        require(type(k) is int, "k", k, "be a whole number", "give one, such as 5")
        require_range("k", k, 1, unit="passages")
        require_queries(queries, groups)
        require_choice("method", method, METHODS)
        for name in (principal, *groups):
            require_principal(name)
        names = frozenset((principal, *groups, EVERYONE))
        wanted = filter_of(filter)
        for _ in range(TRIES):
            self._index.catch_up()
            may = self._ranking.may_be_found(names)
            shown = may if wanted is None else self._ranking.passing(wanted, may)
            hits = self._ranking.hits(queries, k, method, may, None if wanted is None else shown)
            numbers = sorted({int(row) for one in hits for row in one.rows})
            with self._database.transaction():
                chunks = self._database.chunks(numbers)
            if len(chunks) == len(numbers):
                passages = [
                    [
                        ChunkHit(int(number), float(score), chunks[int(number)])
                        for number, score in zip(one.rows, one.scores, strict=True)
                    ]
                    for one in hits
                ]
                return Searched(passages, sum(int(np.count_nonzero(mask)) for mask in shown))
        raise ArtifactError(  # each time, what was found was purged before it was read
            f"{self.folder} must not be purged while it is searched; search again."
        )

    # What is there

    @property
    def commit(self) -> Commit:
        """Return the newest commit."""
        with self._database.transaction():
            return self._database.newest()

    def documents(self, commit: int | None = None) -> list[Document]:
        """Return the documents of a commit, by id; None: the newest. Raises: as `commit_of`."""
        with self._database.transaction():
            return self._database.documents(self._database.commit_of(commit))

    def stats(self) -> dict[str, Any]:
        """Return what the store holds, for whoever runs it: all documents count."""
        self._index.catch_up()
        with self._database.transaction():
            newest, about = self._database.newest(), self._database.about()
            removed, last = self._database.removed_documents(), self._database.last_chunk()
        *segments, tail = self._index.segments
        rules = self._index.rules
        unreadable = sum(
            int(np.count_nonzero(one.alive & (one.rules == number)))
            for number, readers in rules.items()
            for one in self._index.segments
            if not readers
        )
        return {
            "commit": newest.number,
            "content": newest.content,
            "oldest_commit": max(about["purged"], min(1, newest.number)),
            "documents": newest.documents,
            "chunks": newest.chunks,
            "chunks_that_nobody_may_read": unreadable,
            "removed_documents_not_purged": removed,
            "last_chunk_number": last,
            "segments": [len(one) for one in segments],
            "tail": len(tail),
            "database_bytes": (self.folder / DATABASE).stat().st_size,
            "settings": self.settings.as_json(),
        }
