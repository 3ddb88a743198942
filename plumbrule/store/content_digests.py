"""Digests of a file's content: a fast one for every reading, a slow one for whoever verifies.

The fast one is the 128-bit XXH3 (github.com/Cyan4973/xxHash), the slow one sha256. A file that
grows by a row at a time has none; its rows can have one each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

FAST, SLOW = "xxh128", "sha256"
"""Their names in manifests and marks."""
BLOCK_BYTES = 2**20
OF_ROW = "digest"
"""The field of a row that holds the digest of its others."""


def digests(path: Path, *names: str, first_bytes: int | None = None) -> dict[str, str]:
    """Return the digests of a file's content by name, read once. Raises: OSError.

    first_bytes: digest these alone; None: all.
    """
    made: dict[str, Any] = {FAST: xxhash.xxh3_128, SLOW: hashlib.sha256}
    hashes = {name: made[name]() for name in names}
    block = memoryview(bytearray(BLOCK_BYTES))
    done = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block[: None if first_bytes is None else first_bytes - done]):
            done += count
            for one in hashes.values():
                one.update(block[:count])
    return {name: one.hexdigest() for name, one in hashes.items()}


def with_digest(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of JSON with the digest of its fields."""
    text = json.dumps(row, sort_keys=True).encode("ascii")
    return {**row, OF_ROW: xxhash.xxh3_128_hexdigest(text)}


def is_as_written(row: Mapping[str, Any]) -> bool:
    """Return whether a row that `with_digest` made has not changed; True for one without digest."""
    rest = {name: value for name, value in row.items() if name != OF_ROW}
    try:
        return OF_ROW not in row or with_digest(rest)[OF_ROW] == row[OF_ROW]
    except RecursionError:  # no row that we write is so deep
        return False
