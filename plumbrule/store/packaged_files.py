"""Models that come with the project, by the names under which a config finds them.

A name rather than a path: a config, a record and a store then say the same on every machine. A
folder of the same name in the working directory wins, as with any hub name.

A shipped model's folder holds `model/` (weights, tokenizer, policy.json: what a config's hash
covers), `manifest.json` (what it was made of, and its held-out evaluation) and
`curve.jsonl` (how it learned).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError
from plumbrule.store.file_names import MODEL
from plumbrule.store.json_files import read_json
from plumbrule.store.manifests import MANIFEST
from plumbrule.store.packaged_models import PACKAGED, require_converted

SHIPPED = {"plumbrule/atlas-base": Path(__file__).parents[1] / "atlas" / "base"}
"""Name -> folder. `plumbrule experiment=atlas_base` rebuilds it; `scripts/ship_atlas.py` puts it
there."""


def located(name: str | Path) -> str | Path:
    """Return the folder of a shipped or packaged model's name; any other name or path as it is.

    Raises: ConfigError: the folder is not there.
    """
    if not isinstance(name, str) or name not in {**SHIPPED, **PACKAGED} or Path(name).is_dir():
        return name
    if name in PACKAGED:
        return require_converted(name)
    folder = SHIPPED[name] / MODEL
    if not folder.is_dir():
        raise ConfigError(
            f"model.name_or_path (={name}) must be in {folder}, where it is shipped; restore it, "
            "or rebuild it with experiment=atlas_base and scripts/ship_atlas.py."
        )
    return folder


def shipped_world(name: str) -> dict[str, Any]:
    """Return the settings of the world that a shipped model was taught; none for other models.

    Raises: ConfigError: its manifest is missing or damaged.
    """
    folder = next(
        (f for f in SHIPPED.values() if Path(located(name)).resolve() == (f / MODEL).resolve()),
        None,
    )
    if folder is None:
        return {}
    try:
        manifest = read_json(folder / MANIFEST)
        return dict(manifest["world"])
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ConfigError(
            f"{folder / 'manifest.json'} must say in which world the model was taught ({error!r}); "
            "restore it."
        ) from None
