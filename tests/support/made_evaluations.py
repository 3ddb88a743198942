"""A run of two evaluations and their comparison, published with made rows, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.benchmark import Measured
from eval.benchmarks.registry import BENCHMARKS
from eval.comparisons.compare import write_comparison
from eval.comparisons.config import CompareConfig
from eval.config import EvalConfig
from eval.intervals import Intervals, publish
from eval.stage import headlines, summarise, write
from plumbrule.pipeline.run_record import merge_metrics
from plumbrule.report import render_report
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.fingerprint import hashed_config
from plumbrule.store.json_files import as_read_back, write_json, write_jsonl
from plumbrule.store.manifests import Manifest

RUN = "20260102-030405-abcdef"


def rows(seed: int, condition: str) -> list[dict[str, Any]]:
    """Return made rows of benchmark `questions`."""
    rng = np.random.default_rng(seed)
    return [
        {
            "id": f"q{n}",
            "group": f"g{n // 2}",
            "condition": condition,
            "answerable": ("memory", "documents", "nothing")[n % 3],
            "correct": int(rng.integers(0, 2)),
            "abstained": int(rng.integers(0, 2)),
            "confident_wrong": int(rng.integers(0, 2)),
        }
        for n in range(30)
    ]


def write_run(root: Path) -> Path:
    """Write a run with nodes eval_sft, eval, compare and a PPO; return its folder."""
    store = Store(root)
    config = EvalConfig(num_resamples=100)
    names = {"eval_sft": ("sft", "1" * 16), "eval": ("ppo", "2" * 16)}
    made = {
        name: _evaluation(store, name, kind, fingerprint, config, seed)
        for seed, (name, (kind, fingerprint)) in enumerate(names.items())
    }
    folder = store.folder("compare", "3" * 16)
    folder.mkdir(parents=True)
    inputs = {"baseline": made["eval_sft"], "policy": made["eval"]}
    metrics = write_comparison(CompareConfig(), inputs, folder)
    taken = {slot: one.fingerprint for slot, one in inputs.items()}
    store.publish(
        Manifest(
            "compare",
            "compare",
            "3" * 16,
            hashed_config(CompareConfig()),
            taken,
            metrics=metrics,
            built_by="run quickstart/x (process 1 on workstation)",
        )
    )
    made["compare"] = Artifact.at(folder)
    made["ppo"] = _ppo(store)
    nodes = {
        name: {
            "kind": one.kind,
            "state": "built",
            "why": "",
            "artifact": f"artifacts/{one.kind}/{one.fingerprint}",
            "inputs": {"baseline": "eval_sft", "policy": "eval"} if name == "compare" else {},
            "wall_seconds": 1.0,
            "metrics": dict(one.metrics),
            "hardware": {},
        }
        for name, one in made.items()
    }
    kinds = {name: one.kind for name, one in made.items()}
    merged = merge_metrics({name: one.metrics for name, one in made.items()}, kinds)
    run = root / "runs" / "quickstart" / RUN
    run.mkdir(parents=True)
    record = {
        "name": "quickstart",
        "id": RUN,
        "state": "done",
        "overrides": ["ppo.lam=0.9", "data.prompts.path=/home/someone/prompts.jsonl"],
        "seed": 0,
        "notes": [],
        "git": {"commit": "a" * 40, "dirty": False},
        "versions": {"torch": "2"},
        "headline": [],
        "headline_nodes": {},
        "metrics": {**merged, "time/total_seconds": 1.0},
        "nodes": nodes,
        "config": {"data": {"prompts": {"path": "/home/someone/prompts.jsonl"}}},
    }
    write_json(run / "run.json", record)
    folders = {name: one.path for name, one in made.items()}
    html, markdown = render_report(record, folders, {"ppo": None})
    (run / "report.html").write_text(html, "utf-8")
    (run / "report.md").write_text(markdown, "utf-8")
    (run / "command.log").write_text("printed on this machine", "utf-8")
    return run


def _evaluation(
    store: Store, name: str, kind: str, fingerprint: str, config: EvalConfig, seed: int
) -> Artifact:
    folder = store.folder("eval", fingerprint)
    folder.mkdir(parents=True)
    done = {
        ("questions", condition): Measured(rows(seed + place, condition), [], [])
        for place, condition in enumerate(("closed", "rag"))
    }
    intervals = Intervals(config.confidence, config.num_resamples, config.seed)
    metrics = {
        work: summarise(BENCHMARKS["questions"], one, intervals) for work, one in done.items()
    }
    beside: Mapping[str, Any] = {"questions": {"unit": "groups", "confidence": 0.95, "seed": 0}}
    write(folder, done, metrics, beside)
    settings = as_read_back(hashed_config(config))
    write_json(folder / "evaluated.json", {"kind": kind, "fingerprint": "", "settings": settings})
    flat = publish(headlines(metrics, kind), folder)
    about = Manifest(name, "eval", fingerprint, settings, {}, metrics=flat)
    store.publish(about)
    return Artifact.at(folder)


def _ppo(store: Store) -> Artifact:
    """Publish a PPO that has weights, rollouts and curves, and no items."""
    folder = store.folder("ppo", "4" * 16)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(bytes(100))
    (folder / "rollouts").mkdir()
    (folder / "rollouts" / "0001.parquet").write_bytes(b"PAR1")
    write_jsonl(folder / "metrics.jsonl", [{"update": 1, "objective/kl": 0.5}])
    store.publish(Manifest("ppo", "ppo", "4" * 16, {}, {}, metrics={"objective/kl": 0.5}))
    return Artifact.at(folder)
