"""Texts to vectors in bulk: sorted by length, batched, each distinct text once, kept by content.

Texts of like length share a batch, so that little of it is padding. With a `VectorCache` every
block of vectors is on disk before the next is computed: an attempt that was killed goes on with
what it had, and a text that has met this encoder before is not encoded again. Two encoders never
share a folder, because its name is a digest of all that decides a vector.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from plumbrule.protocols import Tracker
from plumbrule.store.fingerprint import digest
from rag.index.encoders import Encoder

KEPT_TOGETHER = 4096
"""Texts whose vectors are one file of a cache, and are lost if the process is killed before it."""
KEY_BYTES = 16


def encode(
    encoder: Encoder,
    texts: Sequence[str],
    batch_size: int,
    tracker: Tracker,
    cache: VectorCache | None = None,
) -> np.ndarray:
    """Return the passages' vectors, (n, dimensions) float32.

    Args: batch_size: texts encoded together. cache: vectors that are known, and where new ones are
        kept; None: all are computed.
    """
    first_row: dict[str, int] = {}
    copy_of = np.array([first_row.setdefault(text, row) for row, text in enumerate(texts)], int)
    vectors = np.empty((len(texts), encoder.dimensions), dtype=np.float32)
    todo = sorted(first_row.values(), key=lambda row: len(texts[row]))  # equal ones keep order
    with tracker.progress(len(texts), "encoding passages", "passages") as line:
        line.skip(len(texts) - len(todo))
        if cache is not None:
            known = cache.look_up([texts[row] for row in todo])
            for row, vector in zip(todo, known, strict=True):
                if vector is not None:
                    vectors[row] = vector
            left = [row for row, vector in zip(todo, known, strict=True) if vector is None]
            line.skip(len(todo) - len(left))
            todo = left
        per_block = max(KEPT_TOGETHER // batch_size, 1) * batch_size
        for begin in range(0, len(todo), per_block):
            block = todo[begin : begin + per_block]
            for start in range(0, len(block), batch_size):
                rows = block[start : start + batch_size]
                vectors[rows] = encoder.encode_passages([texts[row] for row in rows])
                line.advance(len(rows))
            if cache is not None:
                cache.keep([texts[row] for row in block], vectors[block])
    return vectors[copy_of] if len(first_row) < len(texts) else vectors


class VectorCache:
    """Vectors of texts by content, in a folder of safetensors files.

    Args: folder: shared by encoders. identity: all that decides a vector (`identity.py`).
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], dimensions: int):
        self._folder = folder / digest(dict(identity))
        self._dimensions = dimensions
        self._places: dict[bytes, tuple[Path, int]] = {}
        for path in sorted(self._folder.glob("*.safetensors")):
            keys = self._read(path, "keys")
            for row, key in enumerate([] if keys is None else keys):
                self._places[key.tobytes()] = (path, row)

    def __len__(self) -> int:
        """Return the number of texts that are known."""
        return len(self._places)

    def look_up(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """Return each text's vector (dimensions,) float32; None: it is not known."""
        places = [self._places.get(key_of(text)) for text in texts]
        wanted = {place[0] for place in places if place is not None}
        loaded = {path: self._read(path, "vectors") for path in sorted(wanted)}
        found: list[np.ndarray | None] = []
        for place in places:
            vectors = None if place is None else loaded[place[0]]
            found.append(None if vectors is None or place is None else vectors[place[1]])
        return found

    def keep(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Write the vectors of texts; the file counts once it is whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(key_of(text) for text in texts), dtype=np.uint8)
        keys = keys.reshape(len(texts), KEY_BYTES)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
        path = self._folder / f"{name}.safetensors"
        unfinished = path.with_suffix(f".{os.getpid()}")
        save_file({"keys": keys, "vectors": np.ascontiguousarray(vectors)}, unfinished)
        unfinished.replace(path)
        for row, text in enumerate(texts):
            self._places[key_of(text)] = (path, row)

    def _read(self, path: Path, name: str) -> np.ndarray | None:
        """Return a file's array; None: it is damaged, and its texts are encoded again."""
        try:
            found = load_file(path)
        except (SafetensorError, OSError, ValueError):
            return None
        shape = (len(found["keys"]), self._dimensions)
        return found[name] if found["vectors"].shape == shape else None


def key_of(text: str) -> bytes:
    """Return what a text's vector is kept under."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
