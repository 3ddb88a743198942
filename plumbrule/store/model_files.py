"""Damaged files of a model, named before anything reads them; no torch needed.

A Git LFS pointer that was never replaced by its file, a safetensors file that was cut short or is
longer than its header says, one whose header can't be read. What the bytes say is not looked at.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError

LFS_POINTER = b"version https://git-lfs"
"""How the text begins that stands in the place of a file which Git LFS holds."""
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
"""Endings of formats that can run code when they are read."""


CONVERSION = "conversion.json"
"""In a folder that `plumbrule convert` wrote: what it was made from."""


def conversion_facts(folder: Path) -> dict[str, Any]:
    """Return what a folder that was converted says of its source; {} for any other folder."""
    try:
        facts = json.loads((folder / CONVERSION).read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def conversion_note(folder: Path) -> str:
    """Return what is said of a converted model wherever it is used; "" for any other folder."""
    return str(conversion_facts(folder).get("note", ""))


def refuse_pickles(folder: Path, setting: str) -> None:
    """Raise ConfigError if the weights of a folder are pickles only."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(f.name for f in folder.glob("*") if f.suffix in PICKLES)
    if pickled:
        raise ConfigError(
            f"{setting} (={folder}) must hold safetensors, but has {pickled[0]}, a pickle that "
            "could run code; convert it where you trust it: load it with transformers and "
            "save_pretrained it."
        )


def require_undamaged(path: str | Path, setting: str) -> None:
    """Raise ConfigError if a folder's model files are damaged; a hub name is left to its cache."""
    reason = model_damage(Path(path)) if Path(path).is_dir() else None
    if reason is not None:
        raise ConfigError(f"{setting} (={path}) must hold whole files, but {reason}.")


def model_damage(folder: Path) -> str | None:
    """Return what is wrong with the files of a model's folder, and what helps; None: nothing."""
    for path in sorted(
        p for kind in ("*.json", "*.model", "*.safetensors") for p in folder.rglob(kind)
    ):
        name = path.relative_to(folder)
        with open(path, "rb") as file:
            begins = file.read(len(LFS_POINTER))
        if begins == LFS_POINTER:
            return f"{name} is a Git LFS pointer and not the file: run `git lfs pull` there"
        reason = _safetensors_damage(path) if path.suffix == ".safetensors" else None
        if reason is not None:
            return f"{name} {reason}: copy or download it again"
    return None


def _safetensors_damage(path: Path) -> str | None:
    """Return what is wrong with a safetensors file, by its header and its size; None: nothing."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or (length > size - 8 and size < 10**5):
            return f"is cut short or has a damaged header (={size} bytes)"
        if length > size - 8:
            return "has a damaged header"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
            needed = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return "has a damaged header"
    return None if size == needed else f"is cut short or torn (={size} of {needed} bytes)"
