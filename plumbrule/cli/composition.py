"""Composing conf/ with Hydra: where it lies, its schemas and resolvers, and a composed config."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import omegaconf
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.plumbrule_launcher.launcher import PlumbruleLauncher
from hydra_plugins.plumbrule_launcher.sweeper import PlumbruleSweeper
from plumbrule.pipeline.experiment import DEFAULT_IS_SCHEMA, schemas
from plumbrule.pipeline.planning.recipes import recipe_of_model
from plumbrule.store.fingerprint import ROOT, digest
from plumbrule.store.layout import RUNS, store_root

_INSTALLED = ROOT / "plumbrule" / "conf"
CONF = _INSTALLED if _INSTALLED.is_dir() else ROOT / "conf"
"""Inside the package where it is installed, else at the root of the project."""
SWEEP_FOLDERS = "PLUMBRULE_SWEEP_FOLDERS"
"""Names a folder in which every cell, whatever its process, notes where the sweep's folder lies."""
DRY = "dry"
"""The folder in there of a dry sweep's cells, which leave nothing in a store."""
OF_MODEL = "of_"
"""What conf/config.yaml calls the recipe of a file of conf/model, before the file's name."""
_FOLDERS = ("--config-dir", "-cd", "hydra.searchpath", "+hydra.searchpath")
"""How words begin that give Hydra further folders of files."""
_BEFORE_1_4 = tuple(int(part) for part in hydra.__version__.split(".")[:2]) < (1, 4)
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if _BEFORE_1_4 else {}
"""Arguments of Hydra's entry points: 1.3 asks for a version's defaults, 1.4 warns if one does."""
_REPLACE: dict[str, Any] = {} if _BEFORE_1_4 else {"replace": True}
"""Arguments of `ConfigStore.store`: 1.3 replaces silently, 1.4 only if it is asked to."""


def register() -> None:
    """Give Hydra the schema of the whole config and of each group."""
    _register_schemas()
    register_resolver("cell", cell_name)
    register_resolver("sweep_folder", sweep_folder)
    for plugin in (PlumbruleLauncher, PlumbruleSweeper):
        # Hydra looks through the folders of hydra_plugins, which an editable install has none of.
        Plugins.instance().register(plugin)
    store = ConfigStore.instance()
    for choice in group_options("model"):  # Hydra 1.4 has no resolvers in a defaults list
        recipe = {"defaults": [recipe_of_model(choice, CONF)]}
        store.store(group="recipe", name=f"{OF_MODEL}{choice}", node=recipe, **_REPLACE)


@functools.cache
def _register_schemas() -> None:
    """Give Hydra the schemas once: to make them takes as long as to compose.

    For each composition Hydra copies the sources it reads, and with them the store of all schemas,
    though what the store gives out is a copy already. Here the store stays one.
    """
    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    for group, schema in schemas().items():
        if group:
            store.store(group=group, name="schema", node=schema, **_REPLACE)
            if group in DEFAULT_IS_SCHEMA:
                store.store(group=group, name="default", node=schema, **_REPLACE)
        else:
            store.store(name="run_schema", node=schema, **_REPLACE)


def register_resolver(name: str, resolver: Callable[..., str]) -> None:
    """Let `${name:...}` in conf/ be what `resolver` returns."""
    # OmegaConf 2.4 warns of the first name; 2.3 has the second too, for something older.
    before_2_4 = tuple(int(part) for part in omegaconf.__version__.split(".")[:2]) < (2, 4)
    add: Any = OmegaConf.register_new_resolver if before_2_4 else OmegaConf.register_resolver
    add(name, resolver, replace=True)


def cell_name(overrides: str) -> str:
    """Return the folder name of a sweep's cell: its overrides, shortened, and a hash of them."""
    plain = re.sub(r"[^\w.=,-]", "_", overrides)
    return f"{plain[:60]}-{digest(overrides)[:8]}"


def sweep_folder(given: str | None, name: str, dry: bool) -> str:
    """Return the folder that Hydra makes for a sweep; a dry one's goes when the command ends.

    Args: given, name, dry: run.store, run.name and run.dry.
    """
    if dry:
        return str(Path(os.environ.get(SWEEP_FOLDERS, tempfile.gettempdir())) / DRY)
    return str(Path(store_root(given)) / RUNS / name / "sweep")


def require_recipes(words: Sequence[str]) -> None:
    """Raise MissingConfigException for a word `recipe=...` that names no file of conf/recipe.

    A file of a user's own in `model=` has no recipe, so Hydra leaves a missing one out, and so a
    mistyped one too.
    Nothing is said where words name further folders of files.
    """
    if any(word.startswith(_FOLDERS) for word in words):
        return
    known = group_options("recipe")
    for choice in (word.partition("=")[2] for word in words if word.startswith("recipe=")):
        if re.fullmatch(r"[\w.-]+", choice) and choice not in [*known, "null"]:
            missing = f"recipe/{choice}"
            raise MissingConfigException(f"no file {missing}", missing, known)


def composed_config(overrides: Sequence[str]) -> DictConfig:
    """Return what Hydra composes of conf/ and the overrides.

    Raises: HydraException, OmegaConfBaseException: `explain` says it in one line.
    """
    require_recipes(overrides)
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        return compose("config", overrides=list(overrides))


def group_options(group: str) -> list[str]:
    """Return the files of a group of conf/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
