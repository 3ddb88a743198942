"""Messages between two processes: a fixed prefix, a JSON header, raw bytes. No pickle.

    4 bytes   MAGIC
    4 bytes   length of the header, big-endian
    header    JSON: {"body": {...}, "sizes": [bytes of each blob]}
    blobs     one behind the other

Both sides read this file, in two Python environments, so it imports Python's own library alone.
Numbers in blobs are in the machine's byte order: the two processes share a machine.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

MAGIC = b"PLR1"
PREFIX = struct.Struct("!4sI")
MOST_BYTES = 2**31
"""A header or a blob beyond this is no message of ours."""
TOKEN, LOGPROB = "i", "f"
"""Type codes (`array`) of token ids, 4 bytes, and of log-probs, 4 bytes."""


class FramingError(Exception):
    """Bytes that are no message."""


class Frame(NamedTuple):
    """What one side says to the other."""

    body: dict[str, Any]
    blobs: list[bytes]


def pack(body: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return a message as bytes.

    Raises: FramingError: the header or a blob is too long.
    """
    sizes = [len(blob) for blob in blobs]
    header = json.dumps({"body": body, "sizes": sizes}).encode()
    for size in (len(header), *sizes):
        if size > MOST_BYTES:
            raise FramingError(f"a part of a message (={size} bytes) must be under {MOST_BYTES}.")
    return b"".join([PREFIX.pack(MAGIC, len(header)), header, *blobs])


def read_message(read: Callable[[int], bytes]) -> Frame:
    """Return the next message.

    Args: read: returns exactly so many bytes, or raises.
    Raises: FramingError: what comes is no message.
    """
    magic, length = PREFIX.unpack(read(PREFIX.size))
    if magic != MAGIC or length > MOST_BYTES:
        raise FramingError(f"a message must begin with {MAGIC!r} and its length, not {magic!r}.")
    try:
        header = json.loads(read(length))
        body, sizes = header["body"], header["sizes"]
    except (ValueError, KeyError, TypeError) as error:
        raise FramingError(
            f"a message's header must be JSON with body and sizes ({error})."
        ) from None
    if not isinstance(body, dict) or not isinstance(sizes, list):
        raise FramingError("a message's body must be an object, its sizes a list.")
    if not all(type(size) is int and 0 <= size <= MOST_BYTES for size in sizes):
        raise FramingError(f"sizes of blobs (={sizes}) must be whole numbers up to {MOST_BYTES}.")
    return Frame(body, [read(size) for size in sizes])


def pack_rows(rows: Sequence[Sequence[float]], typecode: str) -> tuple[list[int], bytes]:
    """Return the lengths of ragged rows, and their numbers one behind the other."""
    return [len(row) for row in rows], b"".join(array(typecode, row).tobytes() for row in rows)


def unpack_rows(lengths: Sequence[int], blob: bytes, typecode: str) -> list[list[Any]]:
    """Return the ragged rows that `pack_rows` packed.

    Raises: FramingError: the lengths are not those of the blob.
    """
    numbers = array(typecode)
    if sum(lengths) * numbers.itemsize != len(blob):
        raise FramingError(
            f"rows of {sum(lengths)} numbers must take {sum(lengths) * numbers.itemsize} bytes, "
            f"not {len(blob)}."
        )
    numbers.frombytes(blob)
    rows, start = [], 0
    for length in lengths:
        rows.append(numbers[start : start + length].tolist())
        start += length
    return rows
