"""Digests of a file's content: a fast one for every reading, a slow one for whoever verifies.

The fast one is the 128-bit XXH3 (github.com/Cyan4973/xxHash), the slow one sha256.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import xxhash

FAST, SLOW = "xxh128", "sha256"
"""Their names in manifests and marks."""
BLOCK_BYTES = 2**20


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
