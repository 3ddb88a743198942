"""A run of every stage that only reads others' artifacts, published without a model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import comparisons_world

from eval.benchmarks.benchmark import Measured
from eval.benchmarks.registry import BENCHMARKS
from eval.comparisons.config import MethodsConfig, SummaryConfig, WinRateConfig
from eval.comparisons.judged_answers import run as run_win_rate
from eval.comparisons.methods import run as run_methods
from eval.comparisons.summary import run as run_summary
from eval.config import EvalConfig
from eval.intervals import Intervals, publish
from eval.knowledge.config import KnowledgeBudgetConfig, KnowledgeConfig, PricesConfig
from eval.knowledge.stage import run as run_knowledge
from eval.stage import headlines, summarise
from eval.stage import write as write_evaluation
from plumbrule.data.records import write_records
from plumbrule.lm.cost_metrics import cost_metrics
from plumbrule.pipeline.run_record import merge_metrics
from plumbrule.report import render_report
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.fingerprint import hashed_config
from plumbrule.store.json_files import as_read_back, write_json, write_jsonl
from plumbrule.store.manifests import Manifest
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.studies.config import OveroptimisationConfig
from rlhf.studies.overoptimisation import run as run_overoptimisation

RUN = "20260102-030405-abcdef"
ARMS = ["base", "fine_tuned", "rag"]
Write = Callable[[Path], Mapping[str, float]]


class Study:
    """A store to which nodes are published one by one; `record` makes a run of them."""

    def __init__(self, root: Path):
        self.store, self.root = Store(root), root
        self.nodes: dict[str, Artifact] = {}

    def add(
        self,
        node: str,
        kind: str,
        inputs: Mapping[str, Artifact],
        write: Write,
        config: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> Artifact:
        """Publish what `write` writes into a folder, with the metrics that it returns."""
        fingerprint = f"{len(self.nodes) + 1:016x}"
        folder = self.store.folder(kind, fingerprint)
        folder.mkdir(parents=True)
        metrics = dict(write(folder))
        taken = {slot: one.fingerprint for slot, one in inputs.items()}
        about = Manifest(
            node,
            kind,
            fingerprint,
            dict(config or {}),
            taken,
            metrics=metrics,
            wall_seconds=seconds,
        )
        self.store.publish(about)
        self.nodes[node] = Artifact.at(folder)
        return self.nodes[node]

    def plain(
        self, node: str, kind: str, inputs: Mapping[str, Artifact], **costs: float
    ) -> Artifact:
        """Publish what trained something: a file of weights, and costs."""

        def write(folder: Path) -> Mapping[str, float]:
            (folder / "model").mkdir()
            (folder / "model" / "model.safetensors").write_bytes(bytes(10 + len(self.nodes)))
            return cost_metrics(**costs)

        return self.add(node, kind, inputs, write, seconds=float(len(self.nodes)))

    def stage(
        self, node: str, run: Callable[..., Any], config: Any, **inputs: Artifact
    ) -> Artifact:
        """Run a stage, named as its node, and publish what it wrote."""
        return self.of(node, run, config, inputs)

    def of(
        self, node: str, run: Callable[..., Any], config: Any, inputs: Mapping[str, Artifact]
    ) -> Artifact:
        """Do what `stage` does, of inputs whose names are no words of Python."""
        about = as_read_back(hashed_config(config))
        runtime = RuntimeConfig(device="cpu")
        return self.add(
            node, node, inputs, lambda out: run(config, inputs, runtime, out, NullTracker()), about
        )

    def evaluation(
        self,
        node: str,
        inputs: Mapping[str, Artifact],
        benchmark: str,
        rows: Sequence[Mapping[str, Any]],
        **metrics: float,
    ) -> Artifact:
        """Publish an evaluation with made rows of a benchmark, of a policy of the kind ppo."""

        def write(folder: Path) -> Mapping[str, float]:
            config = EvalConfig(num_resamples=100)
            told = {"gold": {"right": 1.0}}
            about = {"kind": "ppo", "fingerprint": "", "settings": told}
            write_json(folder / "evaluated.json", about)
            condition = rows[0]["condition"]
            done = {(benchmark, condition): Measured([dict(row) for row in rows], [], [])}
            intervals = Intervals(config.confidence, config.num_resamples, config.seed)
            found = {
                work: summarise(BENCHMARKS[benchmark], one, intervals) for work, one in done.items()
            }
            write_evaluation(folder, done, found, {benchmark: {}})
            named = {name.replace("__", "/"): value for name, value in metrics.items()}
            return publish(headlines(found, "ppo"), folder) | named

        about = as_read_back(hashed_config(EvalConfig(num_resamples=100)))
        return self.add(node, "eval", inputs, write, about)

    def record(self) -> Path:
        """Write the record and reports of a run of all nodes; return its folder."""
        kinds = {name: one.kind for name, one in self.nodes.items()}
        metrics = {name: dict(one.metrics) for name, one in self.nodes.items()}
        nodes = {
            name: {
                "kind": one.kind,
                "state": "built",
                "why": "",
                "artifact": f"artifacts/{one.kind}/{one.fingerprint}",
                "inputs": {},
                "wall_seconds": 1.0,
                "metrics": metrics[name],
                "hardware": {},
            }
            for name, one in self.nodes.items()
        }
        run = self.root / "runs" / "study" / RUN
        run.mkdir(parents=True)
        record = {
            "name": "study",
            "id": RUN,
            "state": "done",
            "overrides": [],
            "seed": 0,
            "notes": [],
            "git": {"commit": "a" * 40, "dirty": False},
            "versions": {"torch": "2"},
            "headline": [],
            "headline_nodes": {},
            "metrics": {**merge_metrics(metrics, kinds), "time/total_seconds": 1.0},
            "nodes": nodes,
            "config": {},
        }
        write_json(run / "run.json", record)
        folders = {name: one.path for name, one in self.nodes.items()}
        html, markdown = render_report(record, folders, {})
        (run / "report.html").write_text(html, "utf-8")
        (run / "report.md").write_text(markdown, "utf-8")
        return run


def write_run(root: Path) -> Path:
    """Write a run with nodes knowledge, summary, methods, overoptimisation and win_rate."""
    study = Study(root)
    data = study.add("documents", "data", {}, lambda folder: {})
    sft = study.plain("sft", "sft", {"demonstrations": data}, training_tokens=50)
    ppo = {
        seed: study.plain(f"ppo{seed}", "ppo", {"policy": sft}, generated_tokens=90 + seed)
        for seed in (0, 1)
    }
    _knowledge(study, data, sft)
    _methods(study, sft, ppo)
    runs = {f"run_ppo@seed={seed}": one for seed, one in ppo.items()}
    study.of("summary", run_summary, SummaryConfig(["cost/generated_tokens"]), runs)
    curves = {f"ppo@seed={seed}": _curve(study, seed) for seed in (0, 1)}
    curves["best_of_n"] = _best_of_n(study)
    config = OveroptimisationConfig(num_resamples=100)
    study.of("overoptimisation", run_overoptimisation, config, curves)
    _win_rate(study, sft)
    return study.record()


def _knowledge(study: Study, data: Artifact, sft: Artifact) -> None:
    tuned = study.plain("tuned", "sft", {"base": sft, "demonstrations": data}, training_tokens=70)
    index = study.plain("index", "index", {"documents": data})
    made = {
        "base": ({"policy": sft}, 1, "closed"),
        "fine_tuned": ({"policy": tuned}, 6, "closed"),
        "rag": ({"policy": sft, "index": index}, 11, "rag"),
    }
    arms = {}
    for name, (inputs, right, condition) in made.items():
        rows = [
            {
                "id": f"{which}{n}",
                "group": f"{which}{n}",
                "condition": condition,
                "answerable": which,
                "correct": int(n < (right if which == "documents" else 6)),
                "abstained": 0,
                "confident_wrong": int(n >= 6),
                "prompt_tokens": 100 if condition == "rag" else 10,
                "answer_tokens": 8,
            }
            for which in ("documents", "memory", "nothing")
            for n in range(12)
        ]
        seconds = {f"time__item_seconds_questions_{condition}": 0.25}
        arms[f"arm_{name}"] = study.evaluation(
            f"answers_{name}", inputs, "questions", rows, **seconds
        )
    config = KnowledgeConfig(
        arms=ARMS,
        budget=KnowledgeBudgetConfig(training_tokens=1000),
        prices=PricesConfig(source="made up", input_tokens=1.0, training_tokens=1.0),
    )
    study.stage("knowledge", run_knowledge, config, **arms)


def _methods(study: Study, sft: Artifact, ppo: Mapping[int, Artifact]) -> None:
    def rows(gain: float, kl: float) -> list[dict[str, Any]]:
        return [
            {
                "id": f"p{n}",
                "group": f"p{n}",
                "condition": "closed",
                "gold": n / 10 + gain * (n % 5),
                "kl": kl,
            }
            for n in range(40)
        ]

    inputs = {}
    for seed, policy in ppo.items():
        both = {"policy": sft, "reference": sft}
        start = study.evaluation(f"start{seed}", both, "prompts", rows(0.0, 0.0))
        inputs[f"baseline@seed={seed}"] = start
        given = {"policy": policy, "reference": sft}
        after = study.evaluation(f"after{seed}", given, "prompts", rows(0.5 + seed, 2.0))
        inputs[f"policy_ppo@seed={seed}"] = after
    study.of("methods", run_methods, MethodsConfig(), inputs)


def _curve(study: Study, seed: int) -> Artifact:
    rows = []
    for update in range(1, 21):
        d = update / 8
        gold = 1 + d * (1 - math.log(d)) + 0.02 * ((update * 7 + seed) % 5)
        rows.append(
            {
                "update": update,
                "objective/kl": d**2,
                "objective/scores_raw": d,
                "reward/gold_raw": gold,
            }
        )

    def write(folder: Path) -> Mapping[str, float]:
        write_jsonl(folder / "metrics.jsonl", rows)
        return {}

    return study.add(f"curve{seed}", "ppo", {}, write)


def _best_of_n(study: Study) -> Artifact:
    def write(folder: Path) -> Mapping[str, float]:
        sizes = [1, 2, 4, 8]
        rows = [
            {
                "id": str(i),
                "group": str(i),
                "n": sizes,
                "reward": [0.0, 1.0, 1.5, 1.7],
                "utility": [i / 10, i / 10 + 0.4, i / 10 + 0.5 + 0.01 * i, i / 10 + 0.45],
            }
            for i in range(12)
        ]
        write_jsonl(folder / "prompts.jsonl", rows)
        return {}

    return study.add("best", "best_of_n", {}, write)


def _win_rate(study: Study, sft: Artifact) -> None:
    texts = [("one two", "one"), ("one", "one two"), ("one", "word"), ("same", "same")]
    sides = [
        [comparisons_world.row(n, pair[place]) for n, pair in enumerate(texts)] for place in (0, 1)
    ]

    def write(folder: Path) -> Mapping[str, float]:
        records = [comparisons_world.prompt(n) for n in range(len(texts))]
        write_records(records, folder / "validation.jsonl")
        return {}

    prompts = study.add("prompts", "data", {}, write)
    before, after = (
        study.evaluation(f"side{place}", {"policy": sft}, "prompts", rows)
        for place, rows in enumerate(sides)
    )
    given = {"baseline": before, "policy": after, "prompts": prompts}
    rm = study.plain("rm", "rm", {})
    scorer = Artifact.of(rm.path, "rm", "worlds.evaluation:open_reward")
    about = as_read_back(hashed_config(WinRateConfig()))

    def compare(out: Path) -> Mapping[str, float]:
        return run_win_rate(
            WinRateConfig(),
            {**given, "rm": scorer},
            RuntimeConfig(device="cpu"),
            out,
            NullTracker(),
        )

    study.add("win_rate", "win_rate", {**given, "rm": rm}, compare, about)


def changed(files: dict[str, bytes], name: str, path: Sequence[Any], value: Any) -> None:
    """Set a value inside a file of JSON of an archive."""
    whole = json.loads(files[name])
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    assert inner[path[-1]] != value
    inner[path[-1]] = value
    files[name] = (json.dumps(whole, indent=1) + "\n").encode()
