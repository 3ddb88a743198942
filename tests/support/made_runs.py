"""Run folders as a sweep leaves them, written without running anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.report.sweep_table import Cell, write_cell
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import write_json, write_jsonl
from plumbrule.store.manifests import Manifest

SWEEP = "20260102-030405-abcdef"
HEADLINE = ["ppo/gold_gain", "objective/kl"]


def write_run(
    store: Store, number: int, overrides: Sequence[str], metrics: Mapping[str, float], **more: Any
) -> Path:
    """Write the record of a done run, or as `more` has it, and return its folder."""
    folder = store.root / "runs" / "quickstart" / f"20260102-0304{number:02d}-aaaaaa"
    folder.mkdir(parents=True)
    record = {"name": "quickstart", "id": folder.name, "overrides": list(overrides), "seed": 0}
    record |= {"state": "done", "metrics": dict(metrics), "headline": HEADLINE, "nodes": {}}
    write_json(folder / "run.json", {**record, **more})
    return folder


def publish_ppo(store: Store, fingerprint: str, rows: Sequence[Mapping[str, Any]]) -> dict:
    """Publish an artifact of kind ppo with curves and two answers; return its run's node."""
    folder = store.folder("ppo", fingerprint)
    folder.mkdir(parents=True)
    write_jsonl(folder / "metrics.jsonl", rows)
    answers = [
        {"id": f"p{i}", "prompt": f"Say {i} <b>", "response": f"{fingerprint} says", "gold": 0.5}
        for i in range(2)
    ]
    write_jsonl(folder / "samples.jsonl", answers)
    store.publish(Manifest("ppo", "ppo", fingerprint, {}, {}))
    return {"kind": "ppo", "state": "built", "artifact": f"artifacts/ppo/{fingerprint}"}


def write_sweep(store: Store, coefs: Sequence[str], seeds: Sequence[int]) -> Path:
    """Write a sweep over ppo.kl.coef with all cells done; return the folder of its cells.

    Gold gain is the place of the coefficient plus a tenth of the seed.
    """
    folder = store.root / "runs" / "quickstart" / "sweep"
    number = 0
    for place, coef in enumerate(coefs):
        for seed in seeds:
            own = [f"ppo.kl.coef={coef}", f"seed={seed}", "run.store=/elsewhere"]
            gain = place + 0.1 * seed**2
            metrics = {"ppo/gold_gain": gain, "objective/kl": 3.0 - place + 0.01 * seed}
            metrics |= {"ppo/gold_gain_low": gain - 1, "ppo/gold_gain_high": gain + 1}
            rows = [
                {"update": u, "objective/scores": gain * u, "objective/kl": 0.1 * u}
                for u in (1, 2, 3)
            ]
            node = publish_ppo(store, f"{number:016x}", rows)
            run = write_run(store, number, own[:2], metrics, nodes={"ppo": node}, seed=seed)
            about = Cell(SWEEP, number, own, None, f"quickstart/{run.name}", HEADLINE, metrics)
            write_cell(folder / f"cell{number}", about)
            number += 1
    words = [f"ppo.kl.coef={','.join(coefs)}", f"seed={','.join(map(str, seeds))}"]
    plan(folder, [*words, "run.store=/elsewhere"])
    return folder


def plan(folder: Path, words: Sequence[str]) -> None:
    """Write the words of a sweep's command as Hydra does."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = "".join(f"    - {word!r}\n" for word in words)
    (folder / "multirun.yaml").write_text(f"hydra:\n  overrides:\n    task:\n{tasks}", "utf-8")
