"""Compose, plan and build from Python: the command line's steps as functions (docs/notebook.md)."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from plumbrule.cli.main import CONF, register
from plumbrule.pipeline import execute as pipeline
from plumbrule.pipeline.compose import from_hydra
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import Node
from plumbrule.store.artifacts import Artifact, Store


def compose_run(*overrides: str) -> tuple[RunConfig, list[Node]]:
    """Return the typed config and the nodes of what `plumbrule <overrides>` would run.

    Raises: ConfigError, GraphError, HydraException: as the command line says it.
    """
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)))


def build(config: RunConfig, nodes: Sequence[Node], store: Store) -> dict[str, Artifact]:
    """Resolve or build the nodes and return their artifacts by name; no run folder is made.

    Raises: whatever a stage raises; what was published before stands.
    """
    store.require_writable()
    name = f"{config.run.name}/notebook-{uuid.uuid4().hex[:6]}"
    folder = store.root / "runs" / name
    context = pipeline.RunContext(name, folder, store, config.runtime)
    plan = pipeline.make_plan(list(nodes), store, strict=config.run.versions == "strict")
    built = pipeline.execute(plan, context, lambda line: print(line, file=sys.stderr))
    return {name: pipeline.artifact_of(one) for name, one in built.items()}
