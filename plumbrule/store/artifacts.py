"""Artifacts: what a stage leaves behind, and the store that holds them.

An artifact is a folder `artifacts/<kind>/<fingerprint>/`, renamed into place as a whole when it is
done (`attempts.py`), with a `manifest.json` that lists every file (`manifests.py`). Sizes are
checked when a run is planned, contents when a stage opens them: `Artifact.file` returns nothing
that is not as it was published, that the manifest does not list, or that lies behind a link.
Published folders hold only safetensors, JSON, JSON Lines, Parquet, FAISS and text files, never a
pickle.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store import attempts
from plumbrule.store.adapter_files import rebase_adapters
from plumbrule.store.attempts import is_working
from plumbrule.store.checkpoints import mode_of_new_files, set_mode
from plumbrule.store.content_digests import SLOW, digests
from plumbrule.store.layout import (
    ARTIFACTS,
    RUNS,
    VARIABLE,
    artifact_folder,
    find_artifact,
    kind_of,
)
from plumbrule.store.manifests import (
    MANIFEST,
    Manifest,
    describe_file,
    file_damage,
    is_inside,
    read_manifest,
    write_manifest,
)
from plumbrule.store.model_files import PICKLES


@dataclass(frozen=True)
class Artifact:
    """A folder that a stage may read.

    opener: `module:function` that turns it into the object that other stages use, given the
    artifact and a RuntimeConfig; the table of stages fills it in.
    files: the manifest's list, which reading is checked against; None: a folder without a manifest.
    """

    path: Path
    kind: str
    node: str = ""
    fingerprint: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    opener: str | None = None
    files: Mapping[str, Mapping[str, Any]] | None = None

    @classmethod
    def of(cls, path: Path | str, kind: str, opener: str | None = None) -> Artifact:
        """Return an artifact around a folder that has no manifest (tests, imported models)."""
        return cls(Path(path), kind, node=kind, opener=opener)

    @classmethod
    def at(cls, path: Path, opener: str | None = None) -> Artifact:
        """Return the published artifact in a folder; one without a manifest is not checked.

        Raises: ArtifactError: its manifest is damaged.
        """
        try:
            m = read_manifest(path)
        except FileNotFoundError:
            return cls.of(path, kind_of(path), opener)
        return cls(path, m.kind, m.node, m.fingerprint, m.metrics, opener, m.files)

    def has(self, name: str) -> bool:
        """Return whether the artifact was published with a file or folder of that name."""
        if self.files is None:
            return (self.path / name).exists()
        return name in self.files or any(listed.startswith(f"{name}/") for listed in self.files)

    def file(self, name: str) -> Path:
        """Return the path of a file, or of a folder with all its files, as they were published.

        Raises: ArtifactError: it is not there, not listed in the manifest, a link, or its content
        has changed since it was published.
        """
        path = self.path / name
        if not is_inside(name):
            raise ArtifactError(f"{name!r} (in {self.path}) must be inside the artifact.")
        if self.files is None or name == MANIFEST:
            if not path.exists():
                raise ArtifactError(self._without(name))
            return path
        if not self.has(name):
            if path.exists():
                self._refuse(name, "was added after it was published")
            raise ArtifactError(self._without(name))
        self._refuse_links(name)
        for listed, about in self.files.items():
            if listed == name or listed.startswith(f"{name}/"):
                self._refuse_links(listed)
                if found := file_damage(self.path / listed, about):
                    self._refuse(listed, found)
        if name not in self.files:
            for added in unlisted(self.path, self.files, name):
                self._refuse(added, "was added after it was published")
        return path

    def _without(self, name: str) -> str:
        return f"{self.kind} artifact {self.path} has no {name}; remove the folder and run again."

    def _refuse(self, name: str, how: str) -> None:
        raise ArtifactError(
            f"{self.kind} artifact {self.path} is damaged: {name} {how}; remove the folder and run "
            "the same command to build it again."
        )

    def _refuse_links(self, name: str) -> None:
        """Raise ArtifactError if a part of the way to a file leads out of the artifact."""
        parts = Path(name).parts
        for depth in range(1, len(parts) + 1):
            part = "/".join(parts[:depth])
            if (self.path / part).is_symlink():
                self._refuse(part, "is a link")

    def open(self, runtime: Any) -> Any:
        """Return what this kind of artifact is used as: a PassageIndex for index, a Scorer for rm.

        Args: runtime: a RuntimeConfig; its device is where the object computes.
        Raises: ArtifactError: the kind has no such form.
        """
        if self.opener is None:
            raise ArtifactError(f"{self.kind} artifact {self.path} is read by its files only.")
        module, name = self.opener.split(":")
        return getattr(importlib.import_module(module), name)(self, runtime)


class Store:
    """The folder that holds `artifacts/` and `runs/`; every recorded path is relative to it."""

    def __init__(self, root: Path | str):
        self.root = Path(root).resolve()

    def folder(self, kind: str, fingerprint: str) -> Path:
        """Return where the artifact of that kind and fingerprint lies or will lie."""
        return artifact_folder(self.root, kind, fingerprint)

    def find(self, fingerprint: str) -> Path | None:
        """Return the published folder of that fingerprint, whatever its kind, or None."""
        return find_artifact(self.root / ARTIFACTS, fingerprint)

    def require_writable(self) -> None:
        """Create the store's folders.

        Raises: ConfigError: it cannot be written.
        """
        try:
            for name in (ARTIFACTS, RUNS):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / RUNS / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"run.store (={self.root}) must be a folder that can be written "
                f"({error.strerror}); pass run.store=<folder> or set {VARIABLE}."
            ) from None

    def manifest(self, kind: str, fingerprint: str) -> Manifest | None:
        """Return the manifest of a published artifact after checking its files' sizes, or None.

        Raises: ArtifactError: a file is missing or has another size, or the manifest is damaged.
        """
        return self._checked(kind, fingerprint, content=None)

    def verify(self, kind: str, fingerprint: str) -> None:
        """Check every file's sha256, and that no file was added.

        Raises: ArtifactError: the artifact is not there, or a file's content has changed.
        """
        manifest = self._checked(kind, fingerprint, content=SLOW)
        if manifest is None:
            raise ArtifactError(f"no {kind} artifact {fingerprint} in {self.root}.")
        for name in unlisted(self.folder(kind, fingerprint), manifest.files):
            raise self._damaged(kind, fingerprint, f"{name} was added after it was published")

    def _checked(self, kind: str, fingerprint: str, content: str | None) -> Manifest | None:
        folder = self.folder(kind, fingerprint)
        try:
            manifest = read_manifest(folder)
        except FileNotFoundError:
            return None
        for name, about in manifest.files.items():
            if found := file_damage(folder / name, about, content):
                raise self._damaged(kind, fingerprint, f"{name} {found}")
        return manifest

    def _damaged(self, kind: str, fingerprint: str, how: str) -> ArtifactError:
        where = self.folder(kind, fingerprint).relative_to(self.root)
        return ArtifactError(
            f"{kind} artifact {where} is damaged: {how}; remove the folder to build it again."
        )

    def manifests(self) -> list[Manifest]:
        """Return the manifests of published artifacts, oldest first; unreadable ones left out."""
        found = []
        for path in (self.root / ARTIFACTS).glob(f"*/*/{MANIFEST}"):
            with contextlib.suppress(ArtifactError, OSError):
                found.append(read_manifest(path.parent))
        return sorted(found, key=lambda m: m.started)

    def publish(
        self,
        manifest: Manifest,
        attempt: Path | None = None,
        before_it_counts: Callable[[], None] = lambda: None,
    ) -> Manifest:
        """Make an attempt count: list and sync its files, write the manifest, rename it into place.

        Return the published manifest: another's, where another published this moment.

        attempt: what is published; None: the files lie in the artifact's folder already.
        before_it_counts: called last before the folder is renamed; may raise to prevent it.
        Raises: ArtifactError: the stage left a link or a file in a pickle format.
        """
        folder = self.folder(manifest.kind, manifest.fingerprint)
        made = folder if attempt is None else attempt
        rebase_adapters(made, folder)
        names = publishable(made, manifest.kind)
        mode = mode_of_new_files(made)
        for name in names:
            set_mode(made / name, mode)
        files = {name: describe_file(made / name) for name in names}
        whole = Manifest(**{**asdict(manifest), "files": files})
        before_it_counts()
        write_manifest(made, whole)
        if attempt is not None:
            try:
                mine = attempts.publish(attempt, folder)
            except FileNotFoundError:
                before_it_counts()  # says who took it over
                raise
            if not mine:
                return read_manifest(folder)
        attempts.tidy(folder)
        return whole


def publishable(folder: Path, kind: str) -> list[str]:
    """Return the names of the files that a stage has left to be published, sorted.

    Raises: ArtifactError: one is a link or has a pickle format.
    """
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if is_working(name.split("/")[0]) or name == MANIFEST:
            continue
        if path.is_symlink():
            raise ArtifactError(f"stage {kind} left {name}, a link; write the file itself.")
        if path.is_file():
            names.append(name)
    pickled = [name for name in names if name.endswith(PICKLES)]
    if pickled:
        raise ArtifactError(
            f"stage {kind} left {pickled[0]}, a pickle format that is never published; write "
            "safetensors or JSON, or put it under checkpoints/."
        )
    return names


def unlisted(folder: Path, files: Mapping[str, Any], below: str = "") -> list[str]:
    """Return the files and links in a published folder that its manifest does not list, sorted.

    Hidden ones, which file systems and browsers of folders leave, are not read and not returned.
    """
    found = []
    for path in sorted((folder / below).rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if hidden or name == MANIFEST or is_working(name.split("/")[0]):
            continue
        if name not in files and (path.is_symlink() or not path.is_dir()):
            found.append(name)
    return found


def sha256(path: Path) -> str:
    """Return the hex digest of a file's content."""
    return digests(path, SLOW)[SLOW]
