"""Artifacts: what a stage leaves behind, and the store that holds them.

An artifact is a folder `artifacts/<kind>/<fingerprint>/`. It is published when its `manifest.json`
is there, which is renamed into place last; a folder without one is unfinished work that the stage
resumes. The manifest lists every file with size and sha256: sizes are checked at each load, hashes
by `Store.verify`. Published folders hold only safetensors, JSON, JSON Lines, Parquet, FAISS and
text files, never a pickle; `checkpoints/` is not part of them and goes once the manifest is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from plumbrule.checkpoints import fsync_folder, mode_of_new_files, set_mode
from plumbrule.errors import ArtifactError, ConfigError

MANIFEST = "manifest.json"
WORKING = ("checkpoints", "claim.json", "stage.json", "result.json")
"""What lies in an unfinished artifact's folder and is never published."""
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


@dataclass(frozen=True)
class Manifest:
    """What is known of a published artifact; its JSON form is `manifest.json`."""

    node: str
    kind: str
    fingerprint: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Slot -> fingerprint."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Relative name -> {"size": bytes, "sha256": hex}."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    """Project module -> hash of its syntax tree."""
    seed: int | None = None
    git: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    wall_seconds: float = 0.0
    wandb_run_id: str | None = None
    started: str = ""


@dataclass(frozen=True)
class Artifact:
    """A folder that a stage may read.

    opener: `module:function` that turns it into the object other rooms use; the roof fills it in.
    """

    path: Path
    kind: str
    node: str = ""
    fingerprint: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    opener: str | None = None

    @classmethod
    def of(cls, path: Path | str, kind: str, opener: str | None = None) -> Artifact:
        """Return an artifact around a folder that has no manifest (tests, imported models)."""
        return cls(Path(path), kind, node=kind, opener=opener)

    def file(self, name: str) -> Path:
        """Return the path of a file or folder inside the artifact.

        Raises: ArtifactError: it is not there.
        """
        path = self.path / name
        if not path.exists():
            raise ArtifactError(
                f"{self.kind} artifact {self.path} has no {name}; remove the folder and run again."
            )
        return path

    def open(self, **options: Any) -> Any:
        """Return what this kind of artifact is used as: a Retriever for index, a Scorer for rm.

        Raises: ArtifactError: the kind has no such form.
        """
        if self.opener is None:
            raise ArtifactError(f"{self.kind} artifact {self.path} is read by its files only.")
        module, name = self.opener.split(":")
        return getattr(importlib.import_module(module), name)(self, **options)


class Store:
    """The folder that holds `artifacts/` and `runs/`; every recorded path is relative to it."""

    def __init__(self, root: Path | str):
        self.root = Path(root).resolve()

    def folder(self, kind: str, fingerprint: str) -> Path:
        """Return where the artifact of that kind and fingerprint lies or will lie."""
        return self.root / "artifacts" / kind / fingerprint

    def require_writable(self) -> None:
        """Create the store's folders.

        Raises: ConfigError: it cannot be written.
        """
        try:
            for name in ("artifacts", "runs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / "runs" / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"run.store (={self.root}) must be a folder that can be written "
                f"({error.strerror}); pass run.store=<folder> or set PLUMBRULE_STORE."
            ) from None

    def manifest(self, kind: str, fingerprint: str) -> Manifest | None:
        """Return the manifest of a published artifact after checking its files' sizes, or None.

        Raises: ArtifactError: a file is missing or has another size, or the manifest is damaged.
        """
        folder = self.folder(kind, fingerprint)
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        manifest = read_manifest(folder, text)
        for name, about in manifest.files.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != about["size"]:
                state = "is missing" if size is None else f"has {size} bytes"
                raise ArtifactError(
                    f"{kind} artifact {folder.relative_to(self.root)} is damaged: {name} {state} "
                    f"where the manifest says {about['size']}; remove the folder to build it again."
                )
        return manifest

    def verify(self, kind: str, fingerprint: str) -> None:
        """Check every file's sha256.

        Raises: ArtifactError: the artifact is not there, or a file's content has changed.
        """
        manifest = self.manifest(kind, fingerprint)
        folder = self.folder(kind, fingerprint)
        if manifest is None:
            raise ArtifactError(f"no {kind} artifact {fingerprint} in {self.root}.")
        for name, about in manifest.files.items():
            if sha256(folder / name) != about["sha256"]:
                raise ArtifactError(
                    f"{kind} artifact {folder.relative_to(self.root)} is damaged: the content of "
                    f"{name} has changed; remove the folder to build it again."
                )

    def manifests(self) -> list[Manifest]:
        """Return the manifests of published artifacts, oldest first; unreadable ones left out."""
        found = []
        for path in (self.root / "artifacts").glob(f"*/*/{MANIFEST}"):
            with contextlib.suppress(ArtifactError, OSError):
                found.append(read_manifest(path.parent, path.read_text(encoding="utf-8")))
        return sorted(found, key=lambda m: m.started)

    def publish(
        self, manifest: Manifest, before_it_counts: Callable[[], None] = lambda: None
    ) -> Manifest:
        """Make an artifact's folder count: list and sync its files, rename the manifest, tidy up.

        before_it_counts: called last before the manifest is there; may raise to prevent it.
        Raises: ArtifactError: the stage left a file in a pickle format.
        """
        folder = self.folder(manifest.kind, manifest.fingerprint)
        names = sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and not is_working(path.relative_to(folder).parts[0])
        )
        pickled = [name for name in names if name.endswith(PICKLES)]
        if pickled:
            raise ArtifactError(
                f"stage {manifest.kind} left {pickled[0]}, a pickle format that is never "
                "published; write safetensors or JSON, or put it under checkpoints/."
            )
        mode = mode_of_new_files(folder)
        for name in names:
            set_mode(folder / name, mode)
        files = {
            name: {"size": (folder / name).stat().st_size, "sha256": synced(folder / name)}
            for name in names
            if name != MANIFEST
        }
        whole = Manifest(**{**asdict(manifest), "files": files})
        before_it_counts()
        write_json(folder / MANIFEST, asdict(whole))
        tidy(folder)
        return whole


def read_manifest(folder: Path, text: str) -> Manifest:
    """Return the manifest that `text` holds.

    Raises: ArtifactError: it is not valid.
    """
    try:
        known = {f.name for f in fields(Manifest)}  # a later version may write more
        return Manifest(**{k: v for k, v in json.loads(text).items() if k in known})
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST} is damaged ({error}); remove the folder to build it again."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, also after a crash."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, sort_keys=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    fsync_folder(path.parent)


def is_working(name: str) -> bool:
    """Return whether a top-level name in an artifact's folder is never published."""
    return name in WORKING or name.startswith(".") or name.endswith(".partial")


def tidy(folder: Path) -> None:
    """Remove what unfinished work left in a published artifact's folder; a living claim stays."""
    for path in folder.iterdir():
        if not is_working(path.name) or path.name == "claim.json":
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith((".clock-", ".claim-")):  # another command's, this moment
            path.unlink(missing_ok=True)


def synced(path: Path) -> str:
    """Make a file durable and return the hex digest of its content."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return sha256(path)


def sha256(path: Path) -> str:
    """Return the hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
