"""Composing conf/ with Hydra: where it lies, its schemas and resolvers, and a composed config."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

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


def register() -> None:
    """Give Hydra the schema of the whole config and of each group."""
    OmegaConf.register_new_resolver("cell", cell_name, replace=True)
    OmegaConf.register_new_resolver(
        "recipe_of_model", lambda choice: recipe_of_model(choice, CONF), replace=True
    )
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)
    store = ConfigStore.instance()
    for group, schema in schemas().items():
        if group:
            store.store(group=group, name="schema", node=schema)
            if group in DEFAULT_IS_SCHEMA:
                store.store(group=group, name="default", node=schema)
        else:
            store.store(name="run_schema", node=schema)


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


def composed_config(overrides: Sequence[str]) -> DictConfig:
    """Return what Hydra composes of conf/ and the overrides.

    Raises: HydraException, OmegaConfBaseException: `explain` says it in one line.
    """
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def group_options(group: str) -> list[str]:
    """Return the files of a group of conf/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
