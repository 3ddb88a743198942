"""Files of an artifact that not every stage leaves."""

from __future__ import annotations

from typing import Any

from plumbrule.store import json_files
from plumbrule.store.artifacts import Artifact


def read_json(artifact: Artifact, name: str) -> Any:
    """Return the value of an artifact's JSON file, or None where it has no such file."""
    if not artifact.has(name):
        return None
    return json_files.read_json(artifact.file(name))


def read_jsonl(artifact: Artifact, name: str) -> list[Any]:
    """Return the rows of an artifact's JSON Lines file, none where it has no such file."""
    if not artifact.has(name):
        return []
    return json_files.read_jsonl(artifact.file(name))
