"""Archives of runs with other content, whose digests fit all the same."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbrule.bundles.archive import INDEX, write_archive
from plumbrule.store.manifests import signed

Change = Callable[[dict[str, bytes]], Any]


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def forged(path: Path, change: Change) -> Path:
    """Return an archive with other content whose digests all fit, those of manifests too."""
    files = contents(path)
    index = json.loads(files.pop(INDEX))
    change(files)
    for name in [name for name in files if name.endswith("manifest.json")]:
        about = json.loads(files[name])
        about.pop("digest")
        for inner, said in about["files"].items():
            content = files.get(name.removesuffix("manifest.json") + inner)
            if content is not None:
                said |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                said.pop("xxh128", None)
        files[name] = signed(about).encode()
    to = path.with_name("forged.zip")
    write_archive(to, files, {key: index[key] for key in ("run", "left_out")})
    return to
