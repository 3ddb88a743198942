"""Artifacts that stand for what changed code would make: they were found to have the same bytes.

    <store>/accepted/<kind>/<fingerprint under the new code>.json

`plumbrule accept` writes such a record after the node was built under the new code, too. A plan
that comes to the record's fingerprint takes the artifact that it names, so nothing that was made
from that is built again (`plumbrule/pipeline/plan.py`). Where the artifact is gone, the record
says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from plumbrule.errors import ArtifactError
from plumbrule.store.json_files import read_json, write_json

ACCEPTED = "accepted"
"""Folder of the store."""
DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Accepted:
    """That one artifact stands for another fingerprint of its node."""

    kind: str
    fingerprint: str
    """Of the node under the new code."""
    stands_for_it: str
    """Fingerprint of the artifact that a plan takes."""
    node: str
    code: Mapping[str, str]
    """`new`, `old` -> digest of all code hashes of each."""
    changed: Mapping[str, tuple[str | None, str | None]]
    """Source file that changed -> its old hash and its new one; None: it was not reached."""
    files: Mapping[str, str]
    """Published file -> its sha256, which both had; of metrics with times that of the artifact."""
    accepted: str
    """When, in UTC."""


def record_path(root: Path, kind: str, fingerprint: str) -> Path:
    """Return where the record of a fingerprint under new code lies or will lie."""
    return root / ACCEPTED / kind / f"{fingerprint}.json"


def write_accepted(root: Path, about: Accepted) -> Path:
    """Write a record, whole or not at all, and return its path."""
    path = record_path(root, about.kind, about.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(about))
    return path


def accepted_fingerprints(root: Path) -> set[tuple[str, str]]:
    """Return (kind, fingerprint under the new code) of all records of a store."""
    return {(path.parent.name, path.stem) for path in (root / ACCEPTED).glob("*/*.json")}


def read_accepted(root: Path, kind: str, fingerprint: str) -> str:
    """Return the fingerprint of the artifact that stands for another.

    Raises: ArtifactError: the record is damaged.
    """
    path = record_path(root, kind, fingerprint)
    try:
        found = read_json(path)
        if (found["kind"], found["fingerprint"]) != (kind, fingerprint):
            raise ValueError("it is the record of another")
        stands = found["stands_for_it"]
        if not isinstance(stands, str) or len(stands) != 16 or set(stands) - DIGITS:
            raise ValueError(f"stands_for_it (={stands!r:.40}) is no fingerprint")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error!s:.200}); remove it, and give plumbrule accept again."
        ) from None
    return stands
