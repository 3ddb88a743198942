"""The archive of a run: a ZIP file with the same bytes whenever it is written of the same files.

Names are sorted, times are fixed and every entry has the same mode. `bundle.json` lists each other
file with its size and sha256. An archive comes from elsewhere, so nothing of it is trusted before
it is checked: `unpack` refuses names that lead outside, links, entries of one name, more files or
bytes than the limits say, and content other than what `bundle.json` lists. No entry is read beyond
the size that it declares, so a small archive can't fill a disk.
"""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.errors import ArtifactError
from plumbrule.store.manifests import is_inside

INDEX = "bundle.json"
FORMAT, VERSION = "plumbrule bundle", 1
LONGEST_NAME = 300
"""Bytes of an entry's name."""
MOST_INDEX = 64 * 2**20
"""Bytes of `bundle.json`."""
BLOCK = 2**20
_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest that a ZIP file can hold."""
_MODE = (stat.S_IFREG | 0o644) << 16
_LEVEL = 6


class Limits(NamedTuple):
    """What an archive may hold at most. num_bytes: unpacked, in all."""

    num_files: int = 100_000
    num_bytes: int = 8 * 2**30


def write_archive(path: Path, files: Mapping[str, bytes | Path], about: Mapping[str, Any]) -> str:
    """Write an archive with its index and return the sha256 of it, hex.

    Args: files: name -> its content, or the file that has it. about: what else the index says.
    """
    sizes = {name: _size_and_digest(content) for name, content in sorted(files.items())}
    index = {"format": FORMAT, "version": VERSION, **about, "files": sizes}
    text = json.dumps(index, indent=1, ensure_ascii=False).encode() + b"\n"
    partial = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
            for name, content in {INDEX: text, **dict(sorted(files.items()))}.items():
                _write(archive, name, content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system, entry.external_attr = 3, _MODE
    entry.compress_type = zipfile.ZIP_DEFLATED
    if isinstance(content, bytes):
        archive.writestr(entry, content, compresslevel=_LEVEL)
        return
    entry.file_size = content.stat().st_size
    with archive.open(entry, "w") as to, open(content, "rb") as source:
        while block := source.read(BLOCK):
            to.write(block)


def _size_and_digest(content: bytes | Path) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with open(content, "rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"size": content.stat().st_size, "sha256": found}


def unpack(path: Path, to: Path, limits: Limits | None = None) -> dict[str, Any]:
    """Unpack an archive into an empty folder and return its index.

    Raises: ArtifactError: it is no archive of ours or of a later version, is damaged, holds a name,
    a link or an amount that it must not, or a file is not what the index lists.
    """
    limits = limits or Limits()
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(path, archive, limits)
            index = _index(path, archive, entries)
            _require_listed(path, index, entries)
            for name, entry in entries.items():
                if name != INDEX:
                    _extract(path, archive, entry, index["files"][name], to)
            return index
    except FileNotFoundError:
        raise ArtifactError(f"{path} must be an archive of a run; there is no such file.") from None
    except PermissionError:
        raise
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError),
        *(RuntimeError, OSError, UnicodeError, RecursionError, OverflowError),
    ) as error:
        raise _refused(path, f"it is no whole ZIP file ({error!s:.120}); get it again") from None


def _entries(path: Path, archive: zipfile.ZipFile, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by name, all of them as they must be; no content is read."""
    listed = archive.infolist()
    if len(listed) > limits.num_files:
        raise _refused(path, f"it holds {len(listed)} files, more than {limits.num_files}")
    total = sum(entry.file_size for entry in listed)
    if total > limits.num_bytes:
        raise _refused(
            path,
            f"unpacked it has {total / 2**30:.3g} GiB, more than "
            f"{limits.num_bytes / 2**30:.3g} GiB; if you trust it, raise --most-gib",
        )
    found: dict[str, zipfile.ZipInfo] = {}
    folded: dict[str, str] = {}
    for entry in listed:
        name = entry.orig_filename
        if not is_safe(name):
            raise _refused(path, f"the name {name!r:.80} leads outside, or is no plain file's")
        other = folded.setdefault(name.casefold(), name)
        if name in found or other != name:
            raise _refused(path, f"two files are called {name!r:.80}")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise _refused(path, f"{name:.80} is a link or no file")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, 8):
            raise _refused(path, f"{name:.80} is encrypted, or packed in another way than ours")
        found[name] = entry
    inner = [name for name in found if any(f"{part}" in found for part in _above(name))]
    if inner:
        raise _refused(path, f"{inner[0]:.80} lies in what is a file")
    return found


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def is_safe(name: str) -> bool:
    """Return whether an entry's name is that of a file inside: relative, plain, in one spelling."""
    parts = name.split("/")
    plain = name.isprintable() and not set(name) & set('\\:*?"<>|')
    short = len(name.encode("utf-8", "replace")) <= LONGEST_NAME
    return is_inside(name) and plain and short and all(part not in ("", ".") for part in parts)


def _index(
    path: Path, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]
) -> dict[str, Any]:
    """Return what `bundle.json` holds, of the types that are read of it."""
    if INDEX not in entries:
        raise _refused(path, f"it has no {INDEX}, so plumbrule bundle did not write it")
    if entries[INDEX].file_size > MOST_INDEX:
        raise _refused(path, f"{INDEX} is larger than {MOST_INDEX // 2**20} MiB")
    try:
        with archive.open(entries[INDEX]) as opened:  # no more than it declares is unpacked
            found = json.loads(opened.read(entries[INDEX].file_size))
    except (ValueError, RecursionError):
        raise _refused(path, f"{INDEX} is no JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _refused(path, f"{INDEX} is not that of a {FORMAT}")
    version = found.get("version")
    if version != VERSION:
        raise _refused(
            path,
            f"its version is {version!r:.20} and this program reads {VERSION}; use a later one",
        )
    files, left_out = found.get("files"), found.get("left_out")
    sound = isinstance(found.get("run"), str)
    if isinstance(left_out, dict):
        sound = sound and all(isinstance(about, dict) for about in left_out.values())
    else:
        sound = False
    if not sound or not isinstance(files, dict) or not all(map(_is_described, files.values())):
        raise _refused(path, f"{INDEX} lacks the run, or size and sha256 of a file")
    return found


def _is_described(about: Any) -> bool:
    return (
        isinstance(about, dict)
        and type(about.get("size")) is int
        and isinstance(about.get("sha256"), str)
    )


def _require_listed(
    path: Path, index: Mapping[str, Any], entries: Mapping[str, zipfile.ZipInfo]
) -> None:
    listed = {INDEX, *index["files"]}
    for name in sorted(listed ^ set(entries)):
        how = "is missing" if name in listed else f"is not listed in {INDEX}"
        raise _refused(path, f"{name:.80} {how}")


def _extract(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, about: Mapping[str, Any], to: Path
) -> None:
    """Unpack one file. Raises: ArtifactError: its content is not what the index lists."""
    name = entry.orig_filename
    if entry.file_size != about["size"]:
        raise _refused(
            path, f"{name:.80} has {entry.file_size} bytes where {INDEX} says {about['size']}"
        )
    target = to / name
    target.parent.mkdir(parents=True, exist_ok=True)
    whole, left = hashlib.sha256(), entry.file_size
    with archive.open(entry) as source, open(target, "xb") as opened:
        while left and (block := source.read(min(BLOCK, left))):
            left -= len(block)
            whole.update(block)
            opened.write(block)
    if left or whole.hexdigest() != about["sha256"]:
        raise _refused(path, f"{name:.80} has other content than {INDEX} says")


def _refused(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"archive {path} can't be used: {why}.")
