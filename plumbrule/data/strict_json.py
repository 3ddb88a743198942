"""JSON from outside, parsed to values that every later step can hold, print and write again.

Python's parser takes more than JSON has (NaN, Infinity, half a surrogate pair, a key twice, of
which the last silently wins), and gives up on the rest in errors of other kinds: a RecursionError
where brackets nest deeply, a bare ValueError or an OverflowError at long numbers. Here all of that
is one `ValueError` that says what is wrong in a few words; the caller adds file and row.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

MAX_DEPTH = 64
"""Brackets within brackets; data has a handful."""
MAX_DIGITS = 300
"""Of a whole number; a float holds no more than 308."""
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")
_HALF_PAIR_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    """Return the value that `text` holds; bytes are UTF-8.

    Raises: ValueError: with the reason: no JSON, NaN or an infinite number, a whole number of more
    than 300 digits, more than 64 nested brackets, half a surrogate pair, or a key given twice.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")  # a UnicodeDecodeError is a ValueError
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"brackets must nest at most {MAX_DEPTH} deep") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        require_depth(value)
    if _HALF_PAIR_ESCAPED.search(text) or _HALF_PAIR.search(text):
        require_unicode(value)
    return value


def require_depth(value: Any) -> None:
    """Raise ValueError if lists and objects nest more than MAX_DEPTH deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise ValueError(f"brackets must nest at most {MAX_DEPTH} deep")


def require_unicode(value: Any) -> None:
    """Raise ValueError if a text or key of a JSON value holds half a surrogate pair."""
    if _HALF_PAIR.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError("a text must not hold half a surrogate pair (\\ud800 to \\udfff)")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number must have at most {MAX_DIGITS} digits, not {len(digits)}")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"a number (={text:.20}) must be finite")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"a number (={name}) must be finite")


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r:.60} must be given once")
    return found


_DECODER = json.JSONDecoder(
    parse_int=_whole,
    parse_float=_finite,
    parse_constant=_no_constant,
    object_pairs_hook=_keys_once,
)
