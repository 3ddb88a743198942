"""What an evaluation has asked of its policy so far, item by item, so that a killed one goes on.

Each answer and each score is a row of `asked.jsonl`, written as soon as the chunk of items that it
was computed with is done. A row's key is a digest of all that it depends on: the policy, the
prompt's token ids, the settings, and the item's own key of random numbers. So a row can serve
nothing but the same question, and repeats of a prompt under other keys stay repeats.

A chunk is taken from the journal whole or computed whole: items share forward passes with others of
their chunk, and only the same passes give the same numbers to the last bit. Chunks depend on the
items alone. A row holds a digest of itself; a torn or altered one counts as not there. The file is
the attempt's own and is removed when the stage is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CHUNK = 256
"""Items that are computed together, and written together."""


class Journal:
    """A file of results by key; without a path it keeps nothing."""

    def __init__(self, path: Path | None = None, policy: str = ""):
        self.path, self.policy = path, policy
        self.served = 0
        """Results that were taken from the file."""
        self._known = read(path) if path is not None and path.is_file() else {}

    def key(self, *parts: Any) -> str:
        """Return the key of a question to the policy: 32 hex digits."""
        text = json.dumps([self.policy, *parts], separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def each(
        self,
        keys: Sequence[str],
        compute: Callable[[Sequence[int]], Sequence[Any]],
        advance: Callable[[int], None] = lambda number: None,
        chunk: int = CHUNK,
    ) -> list[Any]:
        """Return the result of each key, in order; chunks that are not known are computed.

        Args: compute: places -> their results, as JSON has them. advance: is told how many results
            were taken from the file; whoever computes counts its own.
        """
        found: list[Any] = []
        for begin in range(0, len(keys), chunk):
            part = keys[begin : begin + chunk]
            if all(key in self._known for key in part):
                advance(len(part))
                self.served += len(part)
            else:
                self._write(part, compute(range(begin, begin + len(part))))
            found += [self._known[key] for key in part]
        return found

    def close(self) -> None:
        """Remove the file: its results stand in the artifact's own."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, keys: Sequence[str], results: Sequence[Any]) -> None:
        self._known |= dict(zip(keys, results, strict=True))
        if self.path is None:
            return
        torn = self.path.is_file() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as opened:
            if torn:
                opened.write("\n")
            opened.writelines(
                signed(key, result) + "\n" for key, result in zip(keys, results, strict=True)
            )


def signed(key: str, result: Any) -> str:
    """Return a row: a JSON object with key, result and a digest of both."""
    return json.dumps({"key": key, "result": result, "digest": digest_of(key, result)})


def digest_of(key: str, result: Any) -> str:
    """Return the digest of a row's key and result, 16 hex digits."""
    return hashlib.blake2b(json.dumps([key, result]).encode(), digest_size=8).hexdigest()


def read(path: Path) -> dict[str, Any]:
    """Return the results of whole rows by key; a row that is torn or altered is passed over."""
    found: dict[str, Any] = {}
    for line in path.read_bytes().decode("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if row["digest"] == digest_of(row["key"], row["result"]):
                found[row["key"]] = row["result"]
        except (ValueError, KeyError, TypeError):
            continue
    return found
