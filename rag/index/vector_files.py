"""Vectors on disk: safetensors files of at most `ROWS_A_FILE` rows, mapped into memory.

A folder holds `00000.safetensors`, `00001.safetensors`, ..., each with one float32 tensor
`vectors`, and `vectors.json` with how many rows each has. A file that is cut short, or of another
size than it says, is refused when it is opened. Nothing is read until it is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from plumbrule.errors import ArtifactError
from plumbrule.store.json_files import read_json, write_json

ROWS_A_FILE = 1_000_000
NAME, ROWS = "vectors", "vectors.json"


def save_vectors(
    shards: Iterable[np.ndarray], folder: Path, rows_a_file: int = ROWS_A_FILE
) -> None:
    """Write vectors, (n_i, d) float32 arrays that follow one another, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.safetensors"), folder / ROWS):
        old.unlink(missing_ok=True)
    counts: list[dict[str, int | str]] = []
    for block in _of_at_most(shards, rows_a_file):
        name = f"{len(counts):05d}.safetensors"
        save_file({NAME: np.ascontiguousarray(block, dtype=np.float32)}, folder / name)
        counts.append({"file": name, "rows": len(block), "dimensions": int(block.shape[1])})
    write_json(folder / ROWS, counts)


def open_vectors(folder: Path) -> list[np.ndarray]:
    """Return the arrays that `save_vectors` wrote, in order, mapped into memory.

    Raises: ArtifactError: a file is missing, damaged or cut short.
    """
    try:
        counts = [(str(e["file"]), int(e["rows"]), int(e["dimensions"])) for e in _listed(folder)]
        return [_open(folder / Path(name).name, (rows, d)) for name, rows, d in counts]
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"vectors {folder} can't be read ({reason}); build the index again."
        ) from None


def _listed(folder: Path) -> list[dict]:
    found = read_json(folder / ROWS)
    if not isinstance(found, list) or not found:
        raise ValueError(f"{ROWS} names no file")
    return found


def _open(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return a file's tensor, mapped. Raises: as safetensors does; ValueError: another shape."""
    with safe_open(path, framework="pt") as file:  # checks the header against the file's size
        found = file.get_slice(NAME)
        if tuple(found.get_shape()) != shape or found.get_dtype() != "F32":
            raise ValueError(f"{path.name} is not {shape[0]} x {shape[1]} float32")
    with path.open("rb") as raw:
        header = int.from_bytes(raw.read(8), "little")
        begins = json.loads(raw.read(header))[NAME]["data_offsets"][0]
    # copy on write: the file stays as it is, and torch takes only arrays that can be written to
    return np.memmap(path, np.float32, mode="c", offset=8 + header + begins, shape=shape)


def _of_at_most(shards: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    for shard in shards:
        for start in range(0, len(shard), rows):
            yield shard[start : start + rows]
