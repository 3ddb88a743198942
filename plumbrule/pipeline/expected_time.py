"""How long a node may take, told from what nodes like it took.

A node of the same name, on the same model, took so long for so much work, which its settings and
inputs say: optimizer steps, episodes, rows times epochs, items. The time is scaled by the ratio.
Nothing is said where that is a guess: the model or the work is not known, the known run had less
than a tenth of the work, so that starting up was most of its time, or was a debug run with less.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from plumbrule.atlas.config import ATLAS_SIZES
from plumbrule.pipeline.plan import Planned
from plumbrule.pipeline.stages import STAGES
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import differences
from plumbrule.store.json_files import read_json
from plumbrule.store.layout import RUN_RECORD, RUNS
from plumbrule.store.manifests import Manifest

LIKE = 5
"""Manifests of a node from which its time is guessed."""
LEAST_SHARE = 0.1
"""Of the work of a node that is to be built; what did less says nothing about it."""


@dataclass(frozen=True)
class NodeWork:
    """What a node does, built or not. inputs: slot -> fingerprint."""

    kind: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)


def expected_seconds(plan: list[Planned], store: Store) -> dict[str, float | None]:
    """Return how long each node that is to be built may take; None where that is not known."""
    seconds = seconds_of_artifacts(plan, store)
    return {p.node.name: seconds[p.fingerprint] for p in plan if p.fingerprint in seconds}


def seconds_of_artifacts(plan: Sequence[Planned], store: Store) -> dict[str, float | None]:
    """Return the same by fingerprint; the nodes may be those of several runs.

    The median of the scaled times of the most alike artifacts of the same node.
    """
    todo = [p for p in plan if p.state in ("build", "resume")]
    if not todo:
        return {}
    manifests = [m for m in store.manifests() if m.wall_seconds > 0]
    every = {m.fingerprint: NodeWork(m.kind, m.config, m.inputs, m.metrics) for m in manifests}
    for planned in plan:
        links = {slot: fingerprint for slot, (_, fingerprint) in planned.inputs.items()}
        every.setdefault(planned.fingerprint, NodeWork(planned.node.kind, planned.config, links))
    debug = _debug_runs(store, manifests)
    least = {m.fingerprint: 1.0 if _run_of(m) in debug else LEAST_SHARE for m in manifests}
    return {p.fingerprint: _seconds_like(p, manifests, every, least) for p in todo}


def _seconds_like(
    planned: Planned,
    manifests: Iterable[Manifest],
    every: Mapping[str, NodeWork],
    least: Mapping[str, float],
) -> float | None:
    """Return the seconds of one node. least: of an artifact -> share of the work it must have."""
    name = planned.node.name.split("@")[0]
    same = [
        (age, m)
        for age, m in enumerate(manifests)
        if m.kind == planned.node.kind and m.node.split("@")[0] == name
    ]
    if not same:
        return None
    wanted = work_of(planned.fingerprint, every)
    models = models_of(planned.fingerprint, every)
    alike = []
    for age, m in same:
        done = work_of(m.fingerprint, every)
        if not wanted or not done or done < least[m.fingerprint] * wanted:
            continue
        if models == models_of(m.fingerprint, every):
            changes = len(differences(dict(m.config), dict(planned.config)))
            alike.append((changes, -age, m.wall_seconds * wanted / done))
    nearest = min((changes for changes, _, _ in alike), default=0)
    seconds = [s for changes, _, s in sorted(alike) if changes == nearest][:LIKE]
    return float(median(seconds)) if seconds else None


def work_of(fingerprint: str, every: Mapping[str, NodeWork]) -> float | None:
    """Return the work of a node in a unit of its kind; None where an input's rows are not known."""
    node = every.get(fingerprint)
    if node is None:
        return None
    config = node.config
    if node.kind == "base":
        from_scratch = config["model"].get("name_or_path") is None
        return float(config["steps"] * config["batch_tokens"]) if from_scratch else 1.0
    if node.kind == "ppo":
        return float(config["total_episodes"] * (1 + config["num_ppo_epochs"]))
    if node.kind == "feedback":
        return _times(rows_of(fingerprint, every), config["num_responses"])
    if node.kind in ("sft", "rm", "dpo"):
        slots = ("demonstrations",) if node.kind == "sft" else ("preferences",)
        rows = _input_rows(node, slots, every)
        if rows is not None and config.get("num_rankings") is not None:
            rows = min(rows, config["num_rankings"])
        return _times(rows, config["num_train_epochs"])
    if node.kind == "index":
        return _input_rows(node, ("documents",), every)
    if node.kind in ("best_of_n", "reject"):
        return _input_rows(node, ("samples",), every)
    if node.kind == "eval":
        benchmarks = tuple(slot for slot in STAGES["eval"].needs_one_of if slot != "prompts")
        prompts = config["max_prompts"] if "prompts" in node.inputs else 0
        if prompts is None:
            prompts = _input_rows(node, ("prompts",), every)
        items = _input_rows(node, benchmarks, every)
        return None if items is None or prompts is None else (items + prompts)
    return 1.0


def rows_of(fingerprint: str, every: Mapping[str, NodeWork]) -> float | None:
    """Return the rows of a node that gives records; None where they are not known yet."""
    node = every.get(fingerprint)
    if node is None:
        return None
    if node.kind == "data" and node.config.get("atlas") is not None:
        size = ATLAS_SIZES.get(node.config["role"])
        return 1.0 if size is None else float(node.config["atlas"][size[0]])
    if node.kind == "data" and "data/rows" in node.metrics:
        return node.metrics["data/rows"] + node.metrics.get("data/validation_rows", 0.0)
    if node.kind == "feedback" and node.config.get("num_prompts") is not None:
        return float(node.config["num_prompts"] + (node.config.get("num_held_out") or 0))
    if node.kind == "feedback":
        return _input_rows(node, ("prompts",), every)
    return node.metrics.get("reject/demonstrations")


def models_of(fingerprint: str, every: Mapping[str, NodeWork]) -> frozenset[str]:
    """Return the models that a node and what it is made from start from, as texts that compare."""
    found: set[str] = set()
    todo, seen = [fingerprint], set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name not in every:
            continue
        seen.add(name)
        node = every[name]
        if node.kind == "base" or (node.kind == "sft" and "base" not in node.inputs):
            model = node.config.get("model") or {}
            found.add(json.dumps({k: v for k, v in model.items() if k != "context"}, default=str))
        todo += node.inputs.values()
    return frozenset(found)


def _input_rows(
    node: NodeWork, slots: tuple[str, ...], every: Mapping[str, NodeWork]
) -> float | None:
    """Return the rows of the inputs of some slots together; None where one's are not known."""
    rows = [rows_of(f, every) for slot, f in node.inputs.items() if slot.startswith(slots)]
    return None if None in rows else sum(filter(None, rows))


def _times(rows: float | None, number: float) -> float | None:
    return None if rows is None else rows * number


def _run_of(manifest: Manifest) -> str:
    """Return the run that published an artifact, as <name>/<id>; "" where it does not say."""
    found = re.match(r"run (\S+) \(", manifest.built_by)
    return found[1] if found else ""


def _debug_runs(store: Store, manifests: Iterable[Manifest]) -> set[str]:
    """Return which of the runs that published artifacts had debug=<file>."""
    found = set()
    for name in {_run_of(m) for m in manifests} - {""}:
        path = store.root / RUNS / name / RUN_RECORD
        try:
            overrides = read_json(path)["overrides"]
            if any(o.startswith("debug=") and o != "debug=null" for o in overrides):
                found.add(name)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # removed or damaged
    return found


def duration(seconds: float) -> str:
    """Return a time as it is said: 12 s, 4 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
