"""The files that a path of somebody's data names: what readers read and fingerprints hash.

Both take the same list, so nothing is read that is not hashed, and a file that no reader opens
(`.DS_Store`, `._train.jsonl`, `.git`, `Thumbs.db`) changes no fingerprint. What can't be read as
it stands (a FIFO, a device, a folder without permission, a link to nothing) is an error: left out
in silence, half a data set would be missing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from plumbrule.errors import DataError

LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "__pycache__"})
"""What file managers and archivers leave, beside names that begin with a dot."""

HUB = "hf:"
"""What a path of data begins with that names the hub and no folder here (`hub.py`)."""


def is_hub_data(path: Path | str | None) -> bool:
    """Return whether a path of data names the hub and no folder here."""
    return str(path or "").startswith(HUB)


def is_litter(name: str) -> bool:
    """Return whether a file or folder of this name is nobody's data."""
    return name.startswith(".") or name.lower() in LITTER


def files_under(path: Path | str) -> list[Path]:
    """Return the file at `path`, or all files below that folder but for litter, sorted.

    Links to folders below `path` are not followed.
    Raises: DataError: see `require_readable`.
    """
    root = Path(path)
    require_readable(root)
    if not root.is_dir():
        return [root]
    found: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not is_litter(name)]
        found += [Path(folder, name) for name in names if not is_litter(name)]
    for file in found:
        require_readable(file)
    return sorted(found)


def require_readable(path: Path) -> None:
    """Raise DataError unless `path` is a file or folder that this process may read."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(
                f"is a link to {os.readlink(path)}, which is not there; mend the link.", path
            ) from None
        raise DataError(_absent(path), path) from None
    except (OSError, ValueError) as error:
        raise DataError(f"can't be opened ({_reason(error)}).", str(path)) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(
            f"must be a file or a folder, not {_kind(mode)}: a fingerprint needs content that "
            "stays; write it to a file.",
            path,
        )
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
        raise DataError("must be readable by this user; change its permissions.", path)


def _refuse(error: OSError) -> None:
    raise DataError(f"the folder can't be read ({_reason(error)}).", error.filename)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _absent(path: Path) -> str:
    if str(path).startswith("~"):
        return (
            "no such file or folder: ~ stays as it is inside a setting; write $HOME in its place."
        )
    return "no such file or folder; check the path."


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
