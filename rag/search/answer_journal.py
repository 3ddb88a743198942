"""Answers of a language model, on the disk as soon as they are made.

Building an index may ask for an answer a chunk. Each block of answers is one line of a journal,
under digests of their prompts: an attempt that was killed goes on behind the last whole line. The
same blocks are asked again, so the answers are those of an attempt that was not killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

BATCHES_KEPT = 4
"""Batches whose answers are one line, and are lost if the process is killed before it."""


class AnswerJournal:
    """Answers by prompt, in a file that grows by whole lines. Args: path: of the file."""

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, str] = {}
        whole = 0  # bytes of whole lines
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                break  # a line that was cut off
            if not line.endswith(b"\n"):
                break
            self._known |= entry
            whole += len(line)
        if path.is_file() and path.stat().st_size > whole:
            os.truncate(path, whole)

    def __contains__(self, prompt: str) -> bool:
        """Return whether a prompt has an answer."""
        return key_of(prompt) in self._known

    def answer(self, prompt: str) -> str:
        """Return the answer to a prompt that has one."""
        return self._known[key_of(prompt)]

    def keep(self, answers: Mapping[str, str]) -> None:
        """Write answers to prompts; they count once the line is whole."""
        entry = {key_of(prompt): answer for prompt, answer in answers.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._known |= entry


def key_of(prompt: str) -> str:
    """Return what an answer is kept under, 32 hex digits."""
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
