"""The command line from Python: what a verb prints, as values (docs/notebook.md).

Each function takes a store: a folder, a `Store`, or None for $PLUMBRULE_STORE, else the working
directory. What it raises is what the command line prints.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.composition import composed_config
from plumbrule.cli.explain import explain
from plumbrule.cli.verbs.paper import PAPERS
from plumbrule.config import require_choice
from plumbrule.errors import ArtifactError, ConfigError, listed
from plumbrule.papers.outcomes import Checked, check_scale
from plumbrule.papers.paper import SCALES
from plumbrule.papers.paper_files import read_paper
from plumbrule.pipeline.compose import from_hydra
from plumbrule.pipeline.execute import RunContext, artifact_of, execute
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import make_plan
from plumbrule.pipeline.stages import STAGES
from plumbrule.results import best_group, gathered, run_diff
from plumbrule.results import unused as unused_files
from plumbrule.results.cells import every_run, gather_cells
from plumbrule.results.store_names import find_artifact, find_run
from plumbrule.results.tables import frame_of
from plumbrule.results.tags import change_tags
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.file_names import MODEL
from plumbrule.store.layout import NOTEBOOK, RUNS, store_root

if TYPE_CHECKING:
    import pandas

    from plumbrule.lm.policy import Policy

Where = Store | Path | str | None
"""A store, its folder, or None for the usual one."""


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
    name = f"{config.run.name}/{NOTEBOOK}{uuid.uuid4().hex[:6]}"
    folder = store.root / RUNS / name
    context = RunContext(name, folder, store, config.runtime)
    plan = make_plan(list(nodes), store, strict=config.run.versions == "strict")
    built = execute(plan, context, lambda line: print(line, file=sys.stderr))
    return {name: artifact_of(one) for name, one in built.items()}


def _store(where: Where) -> Store:
    return where if isinstance(where, Store) else Store(store_root(where))


def runs(*words: str, store: Where = None) -> pandas.DataFrame:
    """Return a row per run or cell: group, swept settings, seed, state, run, and all metrics.

    Args: words: sweeps or runs, as `plumbrule gather` takes them; none: all runs of the store.
    Raises: ArtifactError: a word names nothing.
    """
    given = _store(store)
    return frame_of(gather_cells(given, words) if words else every_run(given))


def gather(
    *words: str, metrics: Sequence[str] = (), baseline: str | None = None, store: Where = None
) -> gathered.Gathered:
    """Return what `plumbrule gather` prints; its `.table` and `.frame` are pandas frames.

    Raises: ArtifactError, ConfigError: as `plumbrule.results.gathered.gather`.
    """
    return gathered.gather(_store(store), words, metrics, baseline)


def best(*words: str, metric: str, end: str | None = None, store: Where = None) -> best_group.Best:
    """Return the best group of a sweep by a metric. Raises: ArtifactError, ConfigError."""
    return best_group.best(_store(store), words, metric, end)


def diff(
    first: str, second: str, metrics: Sequence[str] = (), store: Where = None
) -> run_diff.RunDiff:
    """Return in what two runs differ. Raises: ArtifactError, ConfigError."""
    return run_diff.diff(_store(store), first, second, metrics)


def run(what: str, store: Where = None) -> Mapping[str, Any]:
    """Return the record of a run, its `run.json`. Raises: ArtifactError: there is none."""
    return _run(what, store)[1]


def show(what: str, store: Where = None) -> str:
    """Return the lines that `plumbrule show <run>` prints. Raises: ArtifactError: no run."""
    from plumbrule.cli.verbs.show import summary

    return "\n".join(summary(*_run(what, store)))


def tag(what: str, *tags: str, remove: Sequence[str] = (), store: Where = None) -> list[str]:
    """Give a run tags and take some; return those it has. Raises: ArtifactError, ConfigError."""
    return change_tags(_run(what, store)[0], tags, remove)


def unused(store: Where = None) -> list[unused_files.Unused]:
    """Return the artifacts that nothing refers to, which `plumbrule gc` would delete."""
    return unused_files.unused_artifacts(_store(store))


def replay(
    what: str,
    *settings: str,
    reward: str | None = None,
    updates: Sequence[int] | None = None,
    store: Where = None,
) -> list[tuple[int, Mapping[str, float], Mapping[str, float]]]:
    """Return (update, logged, replayed) of a PPO under `ppo.field=value` settings.

    Raises: ArtifactError, ConfigError: as `plumbrule replay`.
    """
    from plumbrule.cli.verbs.replay import replayed

    return list(replayed(_store(store), what, settings, reward, updates))


def artifact(what: str, node: str | None = None, store: Where = None) -> Artifact:
    """Return an artifact by the beginning of its fingerprint, or a node's by its run and name.

    `.file(name)` is a file of it, checked; `.open(RuntimeConfig())` what it is used as: the
    passages of an index, the scorer of a reward model. Of a policy, see `policy`.
    Raises: ArtifactError: nothing, or several are called so; a run without that node.
    """
    where = _store(store)
    found = find_run(where, what)
    if found is None:
        manifest = find_artifact(where, what)
        folder = where.folder(manifest.kind, manifest.fingerprint)
    else:
        nodes = found[1].get("nodes", {})
        if node not in nodes:
            raise ArtifactError(
                f"node (={node}) must be one of run {what}: {listed(nodes) or 'it names none'}."
            )
        folder = where.root / nodes[node]["artifact"]
    stage = STAGES.get(folder.parent.name)
    opened = Artifact.at(folder, stage.opener if stage else None)
    return replace(opened, node=node) if node else opened


def policy(what: str, node: str | None = None, store: Where = None, device: str = "cpu") -> Policy:
    """Return the policy that an artifact or a run's node is: model, tokenizer and chat.

    Raises: ArtifactError: it is none, or has changed since it was published.
    """
    from plumbrule.lm.loading import load_policy

    return load_policy(artifact(what, node, store).file(MODEL), device=device)


def check_paper(name: str, scale: str = "laptop", store: Where = None) -> Checked:
    """Return what a store's runs say of a paper's claims: `.outcomes`, each with its verdict.

    Raises: ConfigError: no paper, or no scale, of that name.
    """
    require_choice("scale", scale, SCALES)
    return check_scale(read_paper(PAPERS, name), scale, _store(store))


def _run(what: str, store: Where) -> tuple[Path, dict[str, Any]]:
    where = _store(store)
    found = find_run(where, what)
    if found is None:
        raise ArtifactError(f"{what!r} must be a run of {where.root}; plumbrule ls lists them.")
    return found
