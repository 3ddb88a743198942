"""The record of a run: `run.json`, and the two reports made from it.

`metrics` in `run.json` is flat. Where several nodes have a metric of one name (two reward models),
that of the node named like its kind keeps it, and the others' are `<node>:<name>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plumbrule.machine import environment
from plumbrule.pipeline.execute import NodeResult
from plumbrule.pipeline.experiment import RunConfig, as_json
from plumbrule.pipeline.stages import POLICY_KINDS, STAGES
from plumbrule.store.artifacts import Store
from plumbrule.store.layout import REPORT_PAGE, REPORT_TEXT

PATTERNS = tuple(pattern for stage in STAGES.values() for pattern in stage.headline)
HEADLINE = tuple(
    dict.fromkeys(
        pattern.format(policy=kind)
        for pattern in PATTERNS
        if not pattern.endswith("*")
        for kind in POLICY_KINDS
    )
)
"""Metrics that a finished run prints, where it has them."""
HEADLINE_FAMILIES = tuple(pattern[:-1] for pattern in PATTERNS if pattern.endswith("*"))
"""Beginnings of further ones, whose ends depend on the experiment."""
MOST_NODES = 4
"""Nodes that a headline metric is told of; more stand in the report."""


def opening(config: RunConfig, overrides: list[str], run_id: str) -> dict[str, Any]:
    """Return what is known of a run before its nodes are built."""
    return {
        "name": config.run.name,
        "id": run_id,
        "overrides": [o for o in overrides if not o.lstrip("+").startswith("run.store=")],
        "seed": config.run.seeds[0] if config.run.seeds else config.seed,
        "seeds": list(config.run.seeds) or [config.seed],
        **({} if config.fold is None else {"fold": config.fold, "folds": config.folds}),
        "objective": config.run.objective,
        "notes": list(config.run.notes),
        "git": environment.git_state(),
        "versions": environment.versions(),
    }


def close(
    config: RunConfig,
    overrides: list[str],
    run_id: str,
    built: Mapping[str, NodeResult],
    store: Store,
    seconds: float,
    goals: Sequence[str],
) -> dict[str, Any]:
    """Return the whole record of a run; paths are relative to the store.

    Args: goals: nodes that were asked for, whose metrics are the headlines.
    """
    kinds = {name: b.planned.node.kind for name, b in built.items()}
    metrics = merge_metrics({name: b.manifest.metrics for name, b in built.items()}, kinds)
    inputs = {name: b.planned.node.inputs for name, b in built.items()}
    by_node = {name: b.manifest.metrics for name, b in built.items()}
    headlines = headlines_of(by_node, kinds, inputs, goals)
    metrics["time/total_seconds"] = round(seconds, 2)
    nodes = {
        name: {
            "kind": b.planned.node.kind,
            "state": b.state,
            "why": b.planned.reason,
            "artifact": str(b.folder.relative_to(store.root)),
            "inputs": dict(b.planned.node.inputs),
            "wall_seconds": b.manifest.wall_seconds,
            "metrics": dict(b.manifest.metrics),
            "hardware": dict(b.manifest.hardware),
        }
        for name, b in built.items()
    }
    return {
        **opening(config, overrides, run_id),
        "state": "done",
        "headline": list(headlines),
        "headline_nodes": headlines,
        "metrics": metrics,
        "nodes": nodes,
        "config": as_json(replace(config, run=replace(config.run, store=None))),
    }


def headlines_of(
    by_node: Mapping[str, Mapping[str, float]],
    kinds: Mapping[str, str],
    inputs: Mapping[str, Mapping[str, str]],
    goals: Sequence[str],
) -> dict[str, str]:
    """Return the metrics that a finished run prints, by their names in its record -> their nodes.

    Of a metric that several nodes have, those nearest to what was asked for are told, and none that
    is farther away: `run.only=ppo_2` tells ppo_2's KL, though ppo_2 starts from ppo. Bounds stand
    beside their metrics.
    """
    names = list(dict.fromkeys(name for metrics in by_node.values() for name in metrics))
    families = [
        name
        for name in names
        if name.startswith(HEADLINE_FAMILIES) and not name.endswith(("_low", "_high"))
    ]
    steps = _steps_from(goals, inputs)
    times = Counter(name for metrics in by_node.values() for name in metrics)
    found: dict[str, str] = {}
    for name in [*(n for n in HEADLINE if n in times), *families]:
        owners = [node for node in by_node if name in by_node[node] and node in steps]
        nearest = min((steps[node] for node in owners), default=0)
        told = [node for node in owners if steps[node] == nearest]
        if len(told) <= MOST_NODES:
            found |= {qualified(name, node, kinds[node], times[name]): node for node in told}
    return found


def _steps_from(goals: Sequence[str], inputs: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Return how many inputs lie between each node and the nearest goal."""
    steps = dict.fromkeys(goals, 0)
    todo = list(goals)
    for node in todo:
        for source in inputs.get(node, {}).values():
            if source not in steps:
                steps[source] = steps[node] + 1
                todo.append(source)
    return steps


def qualified(name: str, node: str, kind: str, times: int) -> str:
    """Return how a node's metric is called in the run's record."""
    return name if times == 1 or node == kind else f"{node}:{name}"


def merge_metrics(
    by_node: Mapping[str, Mapping[str, float]], kinds: Mapping[str, str]
) -> dict[str, float]:
    """Return all nodes' metrics in one flat mapping, with names that several share qualified."""
    times = Counter(name for metrics in by_node.values() for name in metrics)
    return {
        qualified(name, node, kinds[node], times[name]): float(value)
        for node, metrics in by_node.items()
        for name, value in metrics.items()
    }


def write_reports(record: Mapping[str, Any], built: Mapping[str, NodeResult], folder: Path) -> None:
    """Write `report.html`, `report.md` and pages of new rollouts into the run's folder."""
    from plumbrule.report import render_report
    from plumbrule.report.rollouts.of_a_run import write_pages

    folders = {name: b.folder for name, b in built.items()}
    pages = write_pages(record, folders, folder)
    html, markdown = render_report(record, folders, pages)
    (folder / REPORT_PAGE).write_text(html, encoding="utf-8")
    (folder / REPORT_TEXT).write_text(markdown, encoding="utf-8")
