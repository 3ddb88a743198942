"""What a disk, a stray writer or another program may leave where a file of ours should be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

AMOUNTS = pytest.mark.parametrize("examples", [60, pytest.param(20_000, marks=pytest.mark.slow)])
"""Of a fuzz test: few examples with every run, many with `make test-slow`."""


def amount(examples: int) -> settings:
    """Return the settings of a fuzz test; the same examples every time."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def json_values() -> st.SearchStrategy[Any]:
    """Return values of JSON as Python reads it: NaN, huge numbers and half characters, too."""
    text = st.text(st.characters(), max_size=8) | st.sampled_from(["\ud800", "\0", "../x", "a\nb"])
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.sampled_from([10**400, -1, 2**63])
        | st.floats(allow_nan=True)
        | text
    )
    return st.recursive(
        scalars,
        lambda deeper: st.lists(deeper, max_size=4) | st.dictionaries(text, deeper, max_size=4),
        max_leaves=8,
    )


@st.composite
def changed_json(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """Return an object with a few fields of another value, left out, or added."""
    changed = dict(whole)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*whole, "unknown"]))
        if draw(st.booleans()):
            changed[name] = draw(json_values())
        else:
            changed.pop(name, None)
    return changed


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return bytes with a bit flipped, cut short, with a part of something else, or anything."""
    at = draw(st.integers(0, len(whole) - 1))
    how = draw(st.sampled_from(["flip", "cut", "insert", "deep", "digits", "any"]))
    if how == "flip":
        return whole[:at] + bytes([whole[at] ^ 1 << draw(st.integers(0, 7))]) + whole[at + 1 :]
    if how == "cut":
        return whole[:at]
    if how == "insert":
        return whole[:at] + draw(st.binary(max_size=20)) + whole[at:]
    if how == "deep":
        return b"[" * 100_000 + b"]" * 100_000
    if how == "digits":
        return b'{"pid": ' + b"9" * 5_000 + b"}"
    return draw(st.binary(max_size=200))


def object_or_bytes(whole: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Return the bytes of a JSON file: damaged, or whole JSON of other values."""
    text = json.dumps(whole).encode()
    other = changed_json(whole) | json_values()
    return damaged(text) | other.map(lambda value: json.dumps(value).encode())
