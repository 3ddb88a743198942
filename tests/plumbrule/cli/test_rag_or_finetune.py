"""One command from the shipped base model to the table of arms, at a size of minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.knowledge.config import KnowledgeConfig, PricesConfig
from eval.knowledge.table import arms_of, table
from plumbrule.store.json_files import read_json, read_jsonl

SMALL = (
    "experiment=rag_or_finetune",
    "debug=fast",
    "atlas.num_new_facts=400",
    "knowledge.budget.training_tokens=2000",
    "knowledge.budget.generated_tokens=1024",
    "learn_fact.num_facts=1",
    "add_fact.num_facts=1",
)


def command(store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the experiment in a store."""
    return subprocess.run(
        [sys.executable, "-m", "plumbrule", *SMALL, *words],
        capture_output=True,
        text=True,
        cwd=store,
        env={**os.environ, "PLUMBRULE_STORE": str(store), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_one_command_makes_one_table(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "artifacts" / "knowledge").glob("[0-9a-f]" * 16)
    (shown,) = read_json(folder / "tables.json")
    assert shown["columns"][1:] == KnowledgeConfig().arms
    (report,) = (tmp_path / "runs" / "rag_or_finetune").glob("*/report.html")
    page = report.read_text(encoding="utf-8")
    assert shown["title"] in page
    assert "no vendor&#39;s offer" in page or "no vendor's offer" in page
    # the table follows from its rows, at the prices that the manifest says
    said = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["config"]
    config = KnowledgeConfig(
        arms=said["arms"],
        baseline=said["baseline"],
        confidence=said["confidence"],
        prices=PricesConfig(**said["prices"]),
    )
    rows = [list(read_jsonl(folder / "items" / f"{name}.jsonl")) for name in ("answers", "arms")]
    assert table(arms_of(rows[0], rows[1], config), config) == shown
    # what an arm has and what it has not
    costs = {row["arm"]: row for row in rows[1]}
    assert costs["base"]["training_tokens"] == costs["rag"]["training_tokens"] == 0
    assert 1900 < costs["fine_tuned"]["training_tokens"] <= 2000
    assert costs["both"]["training_tokens"] == costs["fine_tuned"]["training_tokens"]
    assert costs["rl_with_retrieval"]["generated_tokens"] > 0
    assert costs["fine_tuned"]["index_bytes"] == costs["base"]["policy_bytes"] == 0
    assert costs["both"]["index_bytes"] == costs["rag"]["index_bytes"] > 0
    # the same command again builds nothing
    again = command(tmp_path, "run.dry=true")
    assert again.returncode == 0
    assert "cached knowledge/" in " ".join(again.stdout.split())
    assert "to build" not in again.stdout
