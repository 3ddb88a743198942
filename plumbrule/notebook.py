"""Compose, plan and build from Python: the command line's steps as functions (docs/notebook.md)."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.composition import composed_config
from plumbrule.cli.explain import explain
from plumbrule.errors import ConfigError
from plumbrule.pipeline.compose import from_hydra
from plumbrule.pipeline.execute import RunContext, artifact_of, execute
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import make_plan
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.layout import RUNS


def compose_run(*overrides: str) -> tuple[RunConfig, list[Node]]:
    """Return the typed config and the nodes of what `plumbrule <overrides>` would run.

    Raises: ConfigError, GraphError: as the command line says it.
    """
    try:
        return from_hydra(composed_config(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides)) from None


def build(config: RunConfig, nodes: Sequence[Node], store: Store) -> dict[str, Artifact]:
    """Resolve or build the nodes and return their artifacts by name; no run folder is made.

    Raises: whatever a stage raises; what was published before stands.
    """
    store.require_writable()
    name = f"{config.run.name}/notebook-{uuid.uuid4().hex[:6]}"
    folder = store.root / RUNS / name
    context = RunContext(name, folder, store, config.runtime)
    plan = make_plan(list(nodes), store, strict=config.run.versions == "strict")
    built = execute(plan, context, lambda line: print(line, file=sys.stderr))
    return {name: artifact_of(one) for name, one in built.items()}
