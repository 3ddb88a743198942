"""Several commands on one store: one builds, the others wait."""

from __future__ import annotations

import json
import os
import signal
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


def read_until(command: subprocess.Popen[str], text: str) -> str:
    """What a command says up to and with the first line that holds a text."""
    assert command.stderr is not None
    lines = []
    for line in command.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"never said {text!r}: {''.join(lines)}")


def test_two_commands_share_one_building(tmp_path: Path) -> None:
    arguments = ("run.only=corpus", "atlas.num_corpus=3000")
    builder = start(tmp_path, *arguments)
    read_until(builder, "corpus: building")
    os.kill(builder.pid, signal.SIGSTOP)  # the claim is held, the building stands still
    try:
        other = start(tmp_path, *arguments)
        waiting = read_until(other, "corpus: waiting for run quickstart/")
    finally:
        os.kill(builder.pid, signal.SIGCONT)
    assert "which builds data/" in waiting
    said = [command.communicate(timeout=120)[1] for command in (builder, other)]
    assert [builder.returncode, other.returncode] == [0, 0], said
    assert "corpus: building" not in said[1]
    records = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/*/run.json")]
    assert sorted(r["nodes"]["corpus"]["state"] for r in records) == ["built", "shared"]
