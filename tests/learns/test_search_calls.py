"""The experiment with search calls from end to end, on a small size; minutes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbrule.store.metric_rows import read_metrics
from rlhf.ppo.rollout import parquet

pytestmark = pytest.mark.slow
SMALL = (
    "experiment=search_calls",
    "debug=fast",
    "atlas.num_demonstrations=400",
    "sft.num_train_epochs=3",
)


def run(store: Path, *more: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "plumbrule", "tracking=jsonl", *SMALL, *more],
        env={**os.environ, "PLUMBRULE_STORE": str(store)},
        cwd=store,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def only(store: Path, kind: str) -> Path:
    (found,) = (store / "artifacts" / kind).glob("*/manifest.json")
    return found.parent


def test_the_chain_from_demonstrations_to_evaluation_with_search(tmp_path: Path) -> None:
    """Fine-tuning teaches the form of a call, PPO samples and learns in turns, evaluation has all
    three conditions; a second command finds all of it cached.
    """
    run(tmp_path)
    sft = only(tmp_path, "sft")
    assert json.loads((sft / "manifest.json").read_text())["metrics"]["sft/rows_with_searches"] > 50
    spec = json.loads((sft / "model" / "policy.json").read_text())
    assert spec["search_form"]["open"] == "Question:"
    ppo = only(tmp_path, "ppo")
    assert json.loads((ppo / "model" / "policy.json").read_text()) == spec
    rows = read_metrics(ppo)
    assert sum(row["search/calls"] for row in rows) > 0.1
    for row in rows:
        assert row["val/logprob_gap_max"] < 1e-2
    trajectory = parquet.read(parquet.path_of(ppo / "rollouts", 1)).trajectory
    assert trajectory.searching is not None
    assert any(one.passages for one in trajectory.searching)
    answered = sum(map(len, trajectory.responses)) - int(trajectory.action_mask.sum())
    assert answered > 0
    newest = max(tmp_path.glob("runs/*/*/run.json"), key=lambda path: path.stat().st_mtime)
    found = json.loads(newest.read_text())["metrics"]
    for name in ("closed", "rag", "search"):
        assert f"eval/known_accuracy_sft_{name}" in found
    assert "to build: 0 of" in run(tmp_path, "run.dry=true")
