"""Messages between processes: what is packed is read, whatever pieces it comes in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbrule.lm.generation.vllm.framing import (
    LOGPROB,
    MAGIC,
    PREFIX,
    TOKEN,
    Frame,
    FramingError,
    pack,
    pack_rows,
    read_message,
    unpack_rows,
)

BODIES = st.dictionaries(
    st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
)
TOKENS = st.lists(st.lists(st.integers(0, 2**31 - 1)))


def reader(data: bytes) -> Callable[[int], bytes]:
    stream = io.BytesIO(data)

    def exactly(count: int) -> bytes:
        found = stream.read(count)
        if len(found) < count:
            raise EOFError
        return found

    return exactly


@given(st.lists(st.tuples(BODIES, st.lists(st.binary()))))
def test_messages_are_read_as_they_were_packed(messages: list[tuple[Any, list[bytes]]]) -> None:
    read = reader(b"".join(pack(body, blobs) for body, blobs in messages))
    for body, blobs in messages:
        assert read_message(read) == Frame(body, blobs)


@given(BODIES, st.lists(st.binary(), min_size=1), st.data())
def test_a_message_that_is_cut_short_is_never_a_shorter_one(
    body: Any, blobs: list[bytes], data: st.DataObject
) -> None:
    whole = pack(body, blobs)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(EOFError):
        read_message(reader(whole[:end]))


@given(st.binary(min_size=8))
def test_other_bytes_are_refused(data: bytes) -> None:
    if not data.startswith(MAGIC):
        with pytest.raises(FramingError, match="must begin with"):
            read_message(reader(data))


@pytest.mark.parametrize(
    "header",
    [
        b"\xff",
        b"[]",
        b"null",
        b'{"body": {}}',
        b'{"body": [], "sizes": []}',
        b'{"body": {}, "sizes": [-1]}',
        b'{"body": {}, "sizes": [true]}',
        b'{"body": {}, "sizes": [99999999999]}',
        b'{"body": {}, "sizes": "1"}',
    ],
)
def test_a_header_of_another_form_is_refused(header: bytes) -> None:
    with pytest.raises(FramingError):
        read_message(reader(PREFIX.pack(MAGIC, len(header)) + header))


@given(TOKENS)
def test_rows_are_unpacked_as_they_were_packed(rows: list[list[int]]) -> None:
    lengths, blob = pack_rows(rows, TOKEN)
    assert unpack_rows(json.loads(json.dumps(lengths)), blob, TOKEN) == rows


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False))))
def test_log_probs_are_exact(rows: list[list[float]]) -> None:
    lengths, blob = pack_rows(rows, LOGPROB)
    assert unpack_rows(lengths, blob, LOGPROB) == rows


def test_lengths_that_are_not_the_blobs_are_refused() -> None:
    lengths, blob = pack_rows([[1, 2], [3]], TOKEN)
    with pytest.raises(FramingError, match="rows of 4 numbers must take 16 bytes, not 12"):
        unpack_rows([*lengths, 1], blob, TOKEN)
