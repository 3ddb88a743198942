"""Manifests: what is known of a published artifact, and whether its bytes are still those.

`manifest.json` lists every published file with its size and two digests, made in one pass when the
artifact is published: sha256, which `plumbrule show --verify` checks, and the 128-bit xxHash (XXH3,
github.com/Cyan4973/xxHash), about eight times as fast here, which every reading checks. xxHash
finds each flipped, cut or exchanged byte that a disk or a stray writer leaves; it is no defence
against someone who forges a file, and neither is a sha256 that lies beside the file.

The last line of a manifest is the sha256 of all bytes before it, so a manifest is checked as well.
Earlier versions wrote neither that line nor an xxHash; their artifacts are checked by sha256.

A file is read for checking once in a process. It is remembered by device, inode, size and the two
times of the file system that a change moves, so one that was touched since is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from plumbrule.errors import ArtifactError
from plumbrule.store.checkpoints import fsync_folder
from plumbrule.store.content_digests import FAST, SLOW, digests

MANIFEST = "manifest.json"
UNSETTLED_SECONDS = 0.1
"""File systems note times in steps of some milliseconds: two changes within one look like one."""
MOST = 2**63 - 1
"""Of a size in bytes, a time in seconds or a whole number in a file of ours; more is damage."""
_DIGEST_LINE = '\n "digest": "'
_DIGITS = frozenset("0123456789abcdef")
_CHECKED: dict[tuple[int, ...], set[str]] = {}
"""What tells a file on this machine apart -> digests that it was found to have."""


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
    """Relative name -> {"size": bytes, "sha256": hex, "xxh128": hex}."""
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
    built_by: str = ""
    """Run, process and machine that published it."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, whole and durable, with its own digest as last line."""
    write_text(folder / MANIFEST, signed(asdict(manifest)))


def signed(about: Mapping[str, Any]) -> str:
    """Return a manifest's JSON with the digest of all before it as its last line."""
    head = json.dumps(about, indent=1).removesuffix("\n}") + ","
    return f'{head}{_DIGEST_LINE}{hashlib.sha256(head.encode()).hexdigest()}"\n}}\n'


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the artifact in `folder`, which is `.../<kind>/<fingerprint>`.

    Raises: FileNotFoundError: there is none. PermissionError: this user may not read it.
        ArtifactError: it is damaged, or another artifact's.
    """
    path = folder / MANIFEST
    text = ""
    try:
        text = path.read_bytes().decode("utf-8")
        found = json.loads(text)
        _require_types(found)
        known = {f.name for f in fields(Manifest)}
        if _DIGEST_LINE in text:
            head, _, rest = text.rpartition(_DIGEST_LINE)
            if rest != hashlib.sha256(head.encode()).hexdigest() + '"\n}\n':
                raise ValueError("its digest is another")
        elif not set(found) <= known:  # whoever wrote more than we know wrote a digest, too
            raise ValueError("its digest is missing")
        # a later version may write more
        manifest = Manifest(**{k: v for k, v in found.items() if k in known})
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error!s:.200}); remove the folder {folder} to build it again."
        ) from None
    if (manifest.kind, manifest.fingerprint) != (folder.parent.name, folder.name):
        raise ArtifactError(
            f"{path} is damaged: it is the manifest of {manifest.kind}/{manifest.fingerprint}; "
            f"remove the folder {folder} to build it again."
        )
    return manifest


def _require_types(found: Any) -> None:
    """Raise ValueError unless a manifest's JSON has the types of its fields."""
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    for name in ("node", "kind", "fingerprint", "started", "built_by"):
        if not isinstance(found.get(name, ""), str):
            raise ValueError(f"{name} is no text")
    for name in ("config", "inputs", "files", "metrics", "code", "versions", "runtime", "hardware"):
        if not isinstance(found.get(name, {}), dict):
            raise ValueError(f"{name} is no object")
    for name in ("inputs", "code"):
        for key, value in found.get(name, {}).items():
            if not isinstance(value, str):
                raise ValueError(f"{name}.{key} has another type")
    require_numbers(found.get("metrics", {}), "metrics")
    seconds = found.get("wall_seconds", 0.0)
    if type(seconds) not in (int, float) or not 0 <= seconds <= MOST:
        raise ValueError("wall_seconds is no time")
    for name, about in found.get("files", {}).items():
        if not is_inside(name):
            raise ValueError(f"files names {name!r:.80}, which is not inside the folder")
        size = about.get("size") if isinstance(about, dict) else None
        if type(size) is not int or not 0 <= size <= MOST:
            raise ValueError(f"files.{name} has no size")
        if not _is_digest(about.get(SLOW), 64):
            raise ValueError(f"files.{name} has no sha256")
        if FAST in about and not _is_digest(about[FAST], 32):
            raise ValueError(f"files.{name} has no xxh128")


def require_numbers(found: Any, name: str) -> None:
    """Raise ValueError unless `found` is an object of numbers; a float may be NaN or infinite."""
    if not isinstance(found, dict):
        raise ValueError(f"{name} is no object")
    for key, value in found.items():
        if type(value) is not float and (type(value) is not int or abs(value) > MOST):
            raise ValueError(f"{name}.{key} is no number, or out of range")


def _is_digest(value: Any, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and set(value) <= _DIGITS


def is_inside(name: str) -> bool:
    """Return whether a relative name stays inside its folder: no root, no `..`, no NUL."""
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and parts[0] != "/" and "\0" not in name


def describe_file(path: Path) -> dict[str, Any]:
    """Make a file durable and return what a manifest says of it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    found = digests(path, SLOW, FAST)
    about = path.stat()
    for digest in found.values():
        _remember(about, digest)
    return {"size": about.st_size, **found}


def file_damage(path: Path, about: Mapping[str, Any], content: str | None = FAST) -> str:
    """Return how a file differs from what its manifest says, as `has 4 bytes ...`; "" if it agrees.

    content: the digest to check where it was not checked before; None: only kind and size.
    Raises: PermissionError: this user may not read it, which says nothing of its content.
    """
    try:
        found = os.lstat(path)
    except PermissionError:
        raise
    except OSError:
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is a link or no file"
    if found.st_size != about["size"]:
        return f"has {found.st_size} bytes where the manifest says {about['size']}"
    if content is None:
        return ""
    name = content if content in about else SLOW
    if about[name] in _CHECKED.get(_identity(found), ()):
        return ""
    try:
        if digests(path, name)[name] != about[name]:
            return "has other content than what was published"
    except PermissionError:
        raise
    except OSError as error:
        return f"can't be read ({error.strerror})"
    _remember(found, about[name])
    return ""


def forget_checked() -> None:
    """Check every file again, whatever was read before in this process."""
    _CHECKED.clear()


def _remember(found: os.stat_result, digest: str) -> None:
    """Remember a file's digest, but of one changed so lately that its times may not move again."""
    if time.time() - found.st_ctime > UNSETTLED_SECONDS:
        _CHECKED.setdefault(_identity(found), set()).add(digest)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the whole new one, also after a crash."""
    write_texts(path, (text,))


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Write texts one after another as `write_text` writes one; they are not held together."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "w", encoding="utf-8") as file:
        file.writelines(texts)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    fsync_folder(path.parent)


def inputs_of(folder: Path) -> Mapping[str, str]:
    """Return the fingerprints of an artifact's inputs by slot; {} of a folder without manifest."""
    return read_manifest(folder).inputs if (folder / MANIFEST).is_file() else {}
