"""Fingerprints of many nodes whose parts are alike: each part is written as text once.

A fingerprint hashes the JSON of kind, code, settings and inputs (`plumbrule/store/fingerprint.py`).
The code of a kind is some twenty thousand characters, the same for every cell of a sweep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple


class Hashed(NamedTuple):
    """A JSON value and the text that fingerprints have of it."""

    value: dict[str, Any]
    text: str

    @classmethod
    def of(cls, value: dict[str, Any]) -> Hashed:
        """Return a value with its text."""
        return cls(value, hashed_text(value))


def hashed_text(value: Any) -> str:
    """Return the text of a JSON value that `plumbrule.store.fingerprint.digest` hashes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest_of_texts(texts: Iterable[str]) -> str:
    """Return `digest` of a list, given the `hashed_text` of each of its values."""
    return hashlib.sha256(f"[{','.join(texts)}]".encode()).hexdigest()[:16]
