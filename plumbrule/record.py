"""The record of a run: `run.json`, and the two reports made from it.

`metrics` in `run.json` is flat. Where several nodes have a metric of one name (two reward models),
that of the node named like its kind keeps it, and the others' are `<node>:<name>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from plumbrule import machine
from plumbrule.artifacts import Store
from plumbrule.pipeline import Built
from plumbrule.run_config import RunConfig, as_json

HEADLINE = (
    "base/perplexity",
    "base/read_accuracy",
    "base/closed_book_accuracy",
    "base/abstain_accuracy",
    "sft/loss",
    "rm/accuracy",
    "rm/accuracy_noise_free",
    "dpo/accuracy",
    "dpo/rewards_chosen",
    "dpo/rewards_rejected",
    "dpo/kl",
    "objective/kl",
    "ppo/gold_gain",
    "ppo/known_accuracy_change_closed",
    "dpo/gold_gain",
    "dpo/known_accuracy_change_closed",
    "eval/known_accuracy_sft",
    "eval/known_accuracy_ppo",
    "eval/known_accuracy_dpo",
    "eval/accuracy_sft_rag",
    "eval/accuracy_ppo_rag",
    "eval/accuracy_dpo_rag",
    "eval/confident_wrong_sft_closed",
    "eval/confident_wrong_ppo_closed",
    "eval/confident_wrong_dpo_closed",
    "eval/confident_wrong_sft_rag",
    "eval/confident_wrong_ppo_rag",
    "eval/confident_wrong_dpo_rag",
)
"""Metrics that a finished run prints, where it has them."""
HEADLINE_FAMILIES = (
    "best_of_n/utility_gain",
    "methods/gold_gain_",
    "methods/kl_",
    "overoptimisation/peak_kl_",
    "overoptimisation/decline_",
    "summary/",
)
"""Beginnings of further ones, whose ends depend on the experiment."""


def opening(config: RunConfig, overrides: list[str], run_id: str) -> dict[str, Any]:
    """Return what is known of a run before its nodes are built."""
    return {
        "name": config.run.name,
        "id": run_id,
        "overrides": [o for o in overrides if not o.lstrip("+").startswith("run.store=")],
        "seed": config.run.seeds[0] if config.run.seeds else config.seed,
        "seeds": list(config.run.seeds) or [config.seed],
        "objective": config.run.objective,
        "notes": list(config.run.notes),
        "git": machine.git_state(),
        "versions": machine.versions(),
    }


def close(
    config: RunConfig,
    overrides: list[str],
    run_id: str,
    built: Mapping[str, Built],
    store: Store,
    seconds: float,
) -> dict[str, Any]:
    """Return the whole record of a run; paths are relative to the store."""
    kinds = {name: b.planned.node.kind for name, b in built.items()}
    metrics = merge_metrics({name: b.manifest.metrics for name, b in built.items()}, kinds)
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
        "headline": headline_of(metrics),
        "metrics": metrics,
        "nodes": nodes,
        "config": as_json(replace(config, run=replace(config.run, store=None))),
    }


def headline_of(metrics: Mapping[str, float]) -> list[str]:
    """Return the names of the metrics that a finished run prints; bounds stand beside them."""
    families = [
        name
        for name in metrics
        if name.startswith(HEADLINE_FAMILIES) and not name.endswith(("_low", "_high"))
    ]
    return [name for name in HEADLINE if name in metrics] + families


def merge_metrics(
    by_node: Mapping[str, Mapping[str, float]], kinds: Mapping[str, str]
) -> dict[str, float]:
    """Return all nodes' metrics in one flat mapping, with names that several share qualified."""
    times = Counter(name for metrics in by_node.values() for name in metrics)
    return {
        (name if times[name] == 1 or node == kinds[node] else f"{node}:{name}"): float(value)
        for node, metrics in by_node.items()
        for name, value in metrics.items()
    }


def write_reports(record: Mapping[str, Any], built: Mapping[str, Built], folder: Path) -> None:
    """Write `report.html` and `report.md` into the run's folder."""
    from plumbrule.report import render

    folders = {name: b.folder for name, b in built.items()}
    html, markdown = render(record, folders)
    (folder / "report.html").write_text(html, encoding="utf-8")
    (folder / "report.md").write_text(markdown, encoding="utf-8")
