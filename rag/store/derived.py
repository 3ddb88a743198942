"""What is searched, derived from a store's database: segments on disk, the tail in memory.

Nothing here is the only copy of anything. `segments.json` lists the segments with a digest of each
file, which is checked where the file is not as it was last seen (`verification.py`). The list is
replaced in one rename after they are on the disk, so it never names half a segment.
What is behind the last of them is read from the database into the tail. Where the list is missing,
damaged, of another store or older than a purge, everything is made again from the database.

`catch_up` brings all of it to the newest commit in one read transaction: chunks that are new go
into the tail, of those that were removed the place is marked. Dense and keyword search read the
same segments, so a change is visible to both or to neither.

`maintain` turns a tail that has grown into a segment, merges a segment with the one before it when
that is less than twice as large (so there are about log2 of them), and makes those again of which a
quarter was removed. One process maintains a store at a time; others go on with what they have.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plumbrule.config import require
from plumbrule.errors import ArtifactError
from plumbrule.store.checkpoints import fsync_folder
from plumbrule.store.content_digests import FAST, digests
from plumbrule.store.json_files import read_json, write_json
from rag.store.database import Database
from rag.store.segments import (
    APPROXIMATE_FROM,
    NUMBERS,
    Segment,
    Tail,
    build_segment,
    load_segment,
    save_segment,
)
from rag.store.verification import Stamp, stamp_of, verified

LIST, LOCK, STAMPS = "segments.json", "maintenance.lock", "stamps"
NAME = re.compile(r"\d+-\d+-[0-9a-f]{8}")
"""Of a segment's folder."""
FLAT = "flat"
"""The type of dense index that is exact."""
TAIL_MOST = 4096
"""Chunks that the tail may hold before it becomes a segment."""
DEAD_MOST = 0.25
"""Share of a segment that may be removed before it is made again."""
BULK = 4 * TAIL_MOST
"""Chunks that become a segment without having been in the tail."""
TRIES = 5
BUSY = ("not be maintained by another process", "wait until that is done and try again")


class Placed(NamedTuple):
    """A segment in its place: it holds what lives of first <= number <= last."""

    first: int
    last: int
    folder: str
    files: dict[str, str]
    """Name -> digest."""
    segment: Segment | None
    """None: nothing of the range lives."""
    stamps: dict[str, Stamp]
    """Name -> what the file system said of the file when its digest was right."""


class DerivedIndex:
    """The segments and the tail of a store, at one commit.

    Args: folder: where the segments lie. database: open. make: of the dense index, an entry of
    `DENSE_INDEXES`. dense_index: its name. dimensions: of a vector. approximate_from: chunks from
    which a segment has an index of that type.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        make: Callable[[np.ndarray], Any],
        dense_index: str,
        dimensions: int,
        approximate_from: int = APPROXIMATE_FROM,
    ):
        self.folder, self._database, self._make = folder, database, make
        self._about = {"dense_index": dense_index, "approximate_from": approximate_from}
        self._dimensions, self._approximate_from = dimensions, approximate_from
        self.commit = -1
        self._purged = -1
        self._listed: Any = None
        self._placed: list[Placed] = []
        self._tail = Tail(dimensions)
        self.rules: dict[int, tuple[str, ...]] = {}
        self.untidied = ""
        """Why the segments could not be tidied at the last try; "": they could."""
        self.catch_up()

    @property
    def segments(self) -> list[Segment]:
        """Return the segments that hold something, in the order of numbers, the tail last."""
        return [p.segment for p in self._placed if p.segment is not None] + [self._tail]

    def catch_up(self) -> None:
        """Bring all that is searched to the newest commit. Raises: ArtifactError: as `Database`."""
        with self._database.transaction():
            about = self._database.about()
            if self._purged != about["purged"]:
                self._load(about)
            behind = self._database.last_chunk() - self._covered
        if behind > BULK and behind > len(self._tail) + TAIL_MOST:
            self.tidy()  # into a segment at once: in the tail each would be indexed twice
        self._refresh()

    @property
    def _covered(self) -> int:
        """Return the last number that the segments on the disk account for."""
        return self._placed[-1].last if self._placed else 0

    def _refresh(self) -> None:
        """Read what commits behind the one that is searched have added and removed."""
        with self._database.transaction():
            newest = self._database.newest().number
            if newest == self.commit:
                return
            after = int(self._tail.numbers[-1]) if len(self._tail) else self._covered
            self._tail.add(list(self._database.living_chunks(after)))
            removed = self._database.removed_chunks(self.commit)
            self.rules = self._database.rules()
        self._mark(removed)
        self.commit = newest

    def _mark(self, removed: list[int]) -> None:
        """Mark chunks as removed, by number."""
        for segment in self.segments if removed else []:
            segment.remove(np.array(removed, dtype=np.int64))

    def _read_list(self) -> Any:
        """Return what the list of segments holds; None: it is missing or damaged."""
        try:
            return read_json(self.folder / LIST)
        except (OSError, ValueError, RecursionError):
            return None

    def _load(self, about: dict[str, Any]) -> None:
        """Start anew from the list of segments, or from nothing where it does not hold."""
        self.commit, self._purged = 0, about["purged"]
        self._tail = Tail(self._dimensions)
        self._placed = []
        for _ in range(TRIES):  # whoever maintains the store may take a segment away meanwhile
            self._listed = self._read_list()
            try:
                if all(self._listed[key] == value for key, value in self._key(about).items()):
                    known = self._listed.get(STAMPS, {})
                    placed = [self._read(known, *entry) for entry in self._listed["segments"]]
                    require_rising(placed)
                    self._placed = placed
                    self._note(placed)
                return
            except (OSError, ValueError, KeyError, TypeError, EOFError, ArtifactError):
                if self._listed == self._read_list():
                    return

    def _note(self, placed: Sequence[Placed]) -> None:
        """Note the stamps of files that were read, so that the next start need not."""
        stamps = stamps_of(placed)
        if stamps == self._listed.get(STAMPS):
            return
        try:
            with self._lock() as held:
                if held and self._read_list() == self._listed:
                    self._listed = {**self._listed, STAMPS: stamps}
                    write_json(self.folder / LIST, self._listed)
        except OSError:  # a store that can't be written is read again at each start
            return

    def _key(self, about: dict[str, Any]) -> dict[str, Any]:
        return {"store": about["uuid"], "purged": about["purged"], **self._about}

    def _read(self, known: Any, first: int, last: int, name: str, files: dict[str, str]) -> Placed:
        require_entry(first, last, name, files)
        folder = self.folder / name
        stamps = verified(folder, files, known.get(name) if isinstance(known, dict) else None)
        return Placed(first, last, name, files, self._opened(folder) if files else None, stamps)

    def tidy(self) -> None:
        """`maintain`, where nothing depends on it: what fails is noted and done again later."""
        try:
            self.maintain()
            self.untidied = ""
        except (OSError, ArtifactError) as error:
            self.untidied = str(error)

    def maintain(self, whole: bool = False) -> int:
        """Make segments of what has grown or was removed.

        Args: whole: make one segment of everything, and purge what was removed from the database.
        Returns how many documents and earlier versions were purged.
        Raises: ConfigError: `whole`, and another process maintains the store.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock() as held:
            if not held:
                require(not whole, "store", self.folder.parent.name, *BUSY)
                return 0
            with self._database.transaction():
                about = self._database.about()
                if self._listed != self._read_list() or self._purged != about["purged"]:
                    self._load(about)  # another process has made other segments
                newest, commit = self._database.last_chunk(), self._database.newest().number
                self._mark(self._database.removed_chunks(self.commit))
            worn = {(p.first, p.last) for p in self._placed if whole or self._is_worn(p)}
            ranges = [(1, newest)] if whole and newest else self._ranges(newest)
            if not whole and not worn and ranges == [(p.first, p.last) for p in self._placed]:
                return 0
            kept = {(p.first, p.last): p for p in self._placed} if not whole else {}
            placed = [self._made(*r) if r in worn or r not in kept else kept[r] for r in ranges]
            # What is removed behind `commit` stays marked in the database, so whichever of it the
            # new segments hold is left out when it is searched.
            purged = self._database.purge(commit) if whole else 0
            self._publish(placed)
            return purged

    def _ranges(self, newest: int) -> list[tuple[int, int]]:
        """Return the ranges of numbers that segments should have."""
        ranges = [(p.first, p.last) for p in self._placed]
        sizes = [0 if p.segment is None else len(p.segment) for p in self._placed]
        behind = newest - self._covered
        if behind >= TAIL_MOST:
            ranges.append((self._covered + 1, newest))
            sizes.append(behind)
        while len(ranges) > 1 and sizes[-2] < 2 * sizes[-1]:
            ranges[-2:] = [(ranges[-2][0], ranges[-1][1])]
            sizes[-2:] = [sizes[-2] + sizes[-1]]
        return ranges

    def _is_worn(self, placed: Placed) -> bool:
        segment = placed.segment
        return segment is not None and segment.alive.mean() < 1 - DEAD_MOST

    def _made(self, first: int, last: int) -> Placed:
        """Return a segment of a range of numbers, on the disk."""
        name = f"{first}-{last}-{uuid.uuid4().hex[:8]}"
        folder = self.folder / name
        with self._database.transaction():
            number = self._database.count_living_chunks(first - 1, last)
            if number == 0:
                return Placed(first, last, name, {}, None, {})
            rows = self._database.living_chunks(first - 1, last)
            make = self._make if self._is_approximate(number) else None
            segment = build_segment(rows, number, self._dimensions, make)
        try:
            folder.mkdir()
            save_segment(segment, folder)
            del segment  # before it is mapped into memory
            files, stamps = {}, {}
            for path in sorted(folder.iterdir()):
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
                stamps[path.name] = stamp_of(path)
                files[path.name] = digests(path, FAST)[FAST]
            fsync_folder(folder)
            fsync_folder(self.folder)
            return Placed(first, last, name, files, self._opened(folder), stamps)
        except RuntimeError as error:  # FAISS's, of a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(f"{folder} can't be written ({error!s:.200})") from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _opened(self, folder: Path) -> Segment:
        """Return the segment in a folder."""
        number = len(np.load(folder / NUMBERS, mmap_mode="r", allow_pickle=False))
        return load_segment(folder, self._is_approximate(number))

    def _is_approximate(self, number: int) -> bool:
        """Return whether a segment of so many chunks has an approximate index."""
        return self._about["dense_index"] != FLAT and number >= self._approximate_from

    def _publish(self, placed: list[Placed]) -> None:
        """Let the list name these segments, forget the others, and start from them."""
        with self._database.transaction():
            about = self._database.about()
        self._purged = about["purged"]
        self._listed = {
            **self._key(about),
            "segments": [[p.first, p.last, p.folder, p.files] for p in placed],
            STAMPS: stamps_of(placed),
        }
        write_json(self.folder / LIST, self._listed)
        named = {p.folder for p in placed}
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)
        self._placed, self._tail = placed, Tail(self._dimensions)
        for one in placed:
            if one.segment is not None:
                one.segment.alive[:] = True
        self.commit = 0  # so that every removal is marked again, and the tail is read again
        self._refresh()

    @contextmanager
    def _lock(self) -> Iterator[bool]:
        """Hold the right to maintain the store; False: another process has it."""
        with open(self.folder / LOCK, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True


def stamps_of(placed: Sequence[Placed]) -> dict[str, dict[str, Stamp]]:
    """Return the stamps of segments' files, by folder."""
    return {one.folder: one.stamps for one in placed if one.stamps}


def require_entry(first: object, last: object, name: object, files: object) -> None:
    """Raise ValueError unless the list of segments has an entry as `_publish` writes it."""
    numbered = type(first) is int and type(last) is int
    named = isinstance(name, str) and NAME.fullmatch(name) is not None
    filed = isinstance(files, dict) and all(
        isinstance(digest, str) and Path(file).name == file for file, digest in files.items()
    )
    if not (numbered and named and filed):
        raise ValueError(f"{LIST} is damaged")


def require_rising(placed: Sequence[Placed]) -> None:
    """Raise ValueError unless each segment begins where the one before it ends."""
    last = 0
    for one in placed:
        if not last + 1 == one.first <= one.last:
            raise ValueError(f"{LIST} is damaged")
        last = one.last
