"""Files of segments are read whole once, and then known by their size and times.

A digest costs a read of every byte, which for a store of a million chunks takes seconds at each
start. So the list of segments notes, beside each file's digest, what the file system said of it
when the digest was right. A file of which it says the same is not read again; any other is, such as
one that was written to or copied. Bytes that rot on the disk without a write are not seen so:
`plumbrule store compact` makes every file anew from the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plumbrule.store.content_digests import FAST, digests

Stamp = list[int]
"""Size in bytes, time of the last write and of the last change of its entry, nanoseconds."""


def stamp_of(path: Path) -> Stamp:
    """Return what the file system says of a file. Raises: OSError: it is missing."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def verified(folder: Path, files: Mapping[str, str], known: object) -> dict[str, Stamp]:
    """Return the stamps of a segment's files, of which those with another than known are read.

    Args: files: name -> digest. known: name -> stamp, as it was noted; anything else knows none.
    Raises: OSError: a file is missing. ValueError: its digest is another.
    """
    noted = known if isinstance(known, Mapping) else {}
    stamps = {}
    for file, digest in files.items():
        path = folder / file
        stamps[file] = stamp_of(path)  # before it is read: a later write changes it
        if noted.get(file) != stamps[file] and digests(path, FAST)[FAST] != digest:
            raise ValueError(f"{path} is damaged")
    return stamps
