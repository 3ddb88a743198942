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
    "atlas.num_demonstrations=600",
    "atlas.search_share=1",
    "sft.num_train_epochs=3",
    "sft.learning_rate=1.5e-3",
)


def run(store: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "plumbrule", "tracking=jsonl", *SMALL],
        env={**os.environ, "PLUMBRULE_STORE": str(store)},
        cwd=store,
        check=True,
    )


def only(store: Path, kind: str) -> Path:
    (found,) = (store / "artifacts" / kind).glob("*/manifest.json")
    return found.parent


def test_the_chain_from_demonstrations_to_evaluation_with_search(tmp_path: Path) -> None:
    """Fine-tuning teaches the form of a call, PPO samples and learns in turns, evaluation has all
    three conditions.
    """
    run(tmp_path)
    sft = only(tmp_path, "sft")
    assert json.loads((sft / "manifest.json").read_text())["metrics"]["sft/rows_with_searches"] > 50
    spec = json.loads((sft / "model" / "policy.json").read_text())
    assert spec["search_form"]["open"] == "Question:"
    ppo = only(tmp_path, "ppo")
    assert json.loads((ppo / "model" / "policy.json").read_text()) == spec
    rows = read_metrics(ppo)
    assert sum(row["search/calls"] for row in rows) > 0
    for row in rows:
        assert row["val/logprob_gap_max"] < 1e-2
    trajectory = parquet.read(parquet.path_of(ppo / "rollouts", 1)).trajectory
    assert trajectory.searching is not None
    assert any(one.passages for one in trajectory.searching)
    answered = sum(map(len, trajectory.responses)) - int(trajectory.action_mask.sum())
    assert answered > 0
    found: dict[str, float] = {}
    for path in (tmp_path / "artifacts" / "eval").glob("*/manifest.json"):
        found |= json.loads(path.read_text())["metrics"]
    for policy in ("sft", "ppo"):
        for name in ("closed", "rag", "search"):
            assert f"eval/known_accuracy_{policy}_{name}" in found
