"""A paper, and run folders as its sweeps leave them, written without running anything."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.papers.paper import Paper
from plumbrule.papers.paper_files import as_paper
from plumbrule.papers.sweep_words import cells_of
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import write_json, write_jsonl
from plumbrule.store.manifests import Manifest

CLAIM: dict[str, Any] = {
    "text": "PPO gains.",
    "expression": "ppo/gold_gain[ppo.kl.coef=0.1] > 0",
    "tolerance": 0,
    "source": "table 1",
    "status": "unverified",
}
LAPTOP: dict[str, Any] = {
    "experiment": "quickstart",
    "settings": {"run.goals": {"value": "[compare]", "source": "all it needs", "status": "ours"}},
    "seeds": [0, 1, 2],
    "arms": {"kl": ["ppo.kl.coef=0.1,1e-5"], "rloo": ["ppo.advantage=rloo"]},
    "expected": [CLAIM],
}


def made_paper(*claims: Mapping[str, Any], **changes: Any) -> Paper:
    """Return a paper whose claims are changes of `CLAIM`; others are of its laptop scale."""
    laptop = {**copy.deepcopy(LAPTOP), **changes}
    if claims:
        laptop["expected"] = [{**CLAIM, **claim} for claim in claims]
    about = {"title": "Made", "citation": "Nobody 2026", "summary": "Nothing."}
    return as_paper("made", {**about, "laptop": laptop, "full": "Its data were never there."})


def write_cells(
    store: Store,
    paper: Paper,
    metrics: Mapping[tuple[str, str], Sequence[float]],
    name: str = "ppo/gold_gain",
    **more: Any,
) -> None:
    """Write a done run for cells of the laptop scale.

    Args: metrics: (arm, value of its first key) -> the metric `name` of each seed. more: of the
    record.
    """
    for number, cell in enumerate(cells_of(paper, paper.scales["laptop"])):
        own = metrics.get((cell.arm, next(iter(cell.selection.values()), "")), ())
        if len(own) <= cell.seed:
            continue
        run_id = f"20260102-0304{len(list(store.root.glob('runs/*/*'))):02d}-aaaaaa"
        folder = store.root / "runs" / paper.run_name / run_id
        folder.mkdir(parents=True)
        value = {name: own[cell.seed]}
        node = publish_curves(store, f"{number:016x}", own[cell.seed])
        record = {"name": paper.run_name, "id": folder.name, "overrides": list(cell.overrides)}
        record |= {"state": "done", "metrics": value, "git": {"commit": "c" * 40}}
        write_json(folder / "run.json", {**record, "nodes": {"ppo": node}, **more})


def publish_curves(store: Store, fingerprint: str, value: float) -> dict[str, Any]:
    """Publish a PPO whose KL is `value` times the update; return its run's node."""
    folder = store.folder("ppo", fingerprint)
    if not folder.exists():
        folder.mkdir(parents=True)
        rows = [{"update": u, "objective/kl": value * u} for u in (1, 2, 3, 4)]
        write_jsonl(folder / "metrics.jsonl", rows)
        store.publish(Manifest("ppo", "ppo", fingerprint, {}, {}))
    hardware = {"processor": "Made CPU", "cores": 2, "memory_gib": 4}
    where = str(Path("artifacts") / "ppo" / fingerprint)
    metrics = {"objective/kl": value}
    return {"kind": "ppo", "state": "built", "artifact": where, "metrics": metrics} | {
        "hardware": hardware
    }
