"""Artifacts that nothing refers to, and their removal.

What a record, a cell or a manifest names by its fingerprint is referred to, whatever else it says,
so a damaged or an older record protects as well as a whole one. A run that has not ended names all
that it planned. An artifact that a run has built stays as long as that run's folder, which the same
command may go on from. What is being built, what people judged and the runs themselves are never
touched.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store.artifacts import Store
from plumbrule.store.claims import BUILD, NAME, is_living, read_owner
from plumbrule.store.layout import ARTIFACTS, LABELS, RUNS
from plumbrule.store.manifests import MANIFEST, read_manifest

FINGERPRINT = re.compile(rb"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
REMOVED = ".removed"
"""Folder of the store into which an artifact is renamed before it is deleted."""


class Unused(NamedTuple):
    """An artifact that nothing refers to. size: of its files, bytes."""

    folder: Path
    size: int


def unused_artifacts(store: Store) -> list[Unused]:
    """Return the published artifacts that nothing refers to, by kind and fingerprint."""
    folders = {
        path.parent.name: path.parent
        for path in sorted((store.root / ARTIFACTS).glob(f"*/*/{MANIFEST}"))
        if not path.parent.name.endswith(BUILD)
    }
    kept: set[str] = set()
    new = _named_by_runs(store) | {f for f, folder in folders.items() if _builder(store, folder)}
    while new:
        kept |= new
        named = [_fingerprints(folders[f] / MANIFEST) for f in new if f in folders]
        new = set().union(*named) - kept
    return [Unused(folder, _size(folder)) for name, folder in folders.items() if name not in kept]


def remove(store: Store, unused: list[Unused]) -> list[Unused]:
    """Delete artifacts, each as a whole, and return those that were deleted.

    One that a run has come to refer to since they were listed stays.

    Raises: ConfigError: something is being built, which may be about to read one of them.
    """
    for path in (store.root / ARTIFACTS).glob(f"*/*{BUILD}/{NAME}"):
        if is_living(path, read_owner(path)):
            raise ConfigError(
                f"{path.parent} must not be being built while artifacts are deleted; wait for the "
                "command that builds it (plumbrule watch)."
            )
    still = {one.folder for one in unused_artifacts(store)}
    deleted = [one for one in unused if one.folder in still]
    trash = store.root / REMOVED
    shutil.rmtree(trash, ignore_errors=True)  # what a gc that was killed left
    trash.mkdir(exist_ok=True)
    for one in deleted:
        target = trash / f"{one.folder.parent.name}-{one.folder.name}"
        one.folder.rename(target)  # a reader finds all of it, or nothing
        shutil.rmtree(target)
    trash.rmdir()
    return deleted


def _named_by_runs(store: Store) -> set[str]:
    """Return what looks like a fingerprint in any text file of the runs and the labels."""
    found: set[str] = set()
    for top in (RUNS, LABELS):
        for path in (store.root / top).rglob("*.json"):
            if path.is_file():
                found |= _fingerprints(path)
    return found


def _fingerprints(path: Path) -> set[str]:
    return {match.decode() for match in FINGERPRINT.findall(path.read_bytes())}


def _builder(store: Store, folder: Path) -> bool:
    """Return whether the run that built an artifact is still there, or can't be known."""
    try:
        built_by = read_manifest(folder).built_by
    except (ArtifactError, OSError):
        return True
    found = re.match(r"run (\S+) \(", built_by)
    return found is not None and (store.root / RUNS / found[1]).is_dir()


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
