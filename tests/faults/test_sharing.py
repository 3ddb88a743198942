"""Several commands on one store: one builds, the others wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def start(store: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command on a store."""
    return subprocess.Popen(
        [sys.executable, "-m", "plumbrule.run", "tracking=jsonl", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=store,
        env={**os.environ, "PLUMBRULE_STORE": str(store), "OMP_NUM_THREADS": "1"},
    )


def test_two_commands_share_one_building(tmp_path: Path) -> None:
    commands = [start(tmp_path, "run.only=corpus", "atlas.num_corpus=3000") for _ in range(2)]
    said = [command.communicate(timeout=120)[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    assert sum("corpus: building" in text for text in said) == 1
    waiting = [text for text in said if "corpus: waiting for run quickstart/" in text]
    assert len(waiting) == 1
    assert "which builds data/" in waiting[0]
    records = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/*/run.json")]
    assert sorted(r["nodes"]["corpus"]["state"] for r in records) == ["built", "shared"]
