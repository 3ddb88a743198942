"""`plumbrule submit`: a command that goes on by itself, and its log."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from commands import plumbrule

from plumbrule.cli.submitted import Started
from plumbrule.cli.verbs.submit import followed

SMALL = ("atlas.num_known=16", "atlas.num_after=12", "run.goals=[index]", "tracking=jsonl")
WAIT_SECONDS = 300.0


def ended(store: Path, pattern: str) -> Path:
    """Wait until a file of that pattern holds a record that has ended, and return it."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        for path in store.glob(pattern):
            if json.loads(path.read_text()).get("state") not in (None, "running"):
                return path
        time.sleep(0.2)
    raise AssertionError(f"no {pattern} in {store}")


def test_a_submitted_run_goes_on_in_a_session_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from rag.options import DENSE_INDEXES\n"
        "@DENSE_INDEXES.register('slow')\n"
        "def slow(vectors):\n"
        "    print(f'session {os.getsid(0)}', flush=True)\n"
        "    while not os.path.exists('go'):\n"
        "        time.sleep(0.1)\n"
        "    raise ValueError('it broke in the background')\n"
    )
    words = ["--plugin", "slow.py", "submit", "rag.dense_index=slow", *SMALL]
    done = plumbrule(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "plan of quickstart" in done.stdout  # its checks have passed
    found = re.search(r"submitted (\S+), process (\d+)", done.stdout)
    assert found is not None
    run, process = tmp_path / "runs" / found[1], int(found[2])
    assert f"plumbrule watch {run.name}\n" in done.stdout
    assert f"plumbrule gather {run.name}\n" in done.stdout
    log = run / "command.log"
    assert str(log) in done.stdout
    until = time.monotonic() + WAIT_SECONDS
    while "session" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.2)
    assert f"session {process}" in log.read_text()  # not that of this test
    assert json.loads((run / "run.json").read_text())["state"] == "running"
    looked = plumbrule(tmp_path, "watch", run.name, "--once")
    assert f"log: {log}" in looked.stdout
    (tmp_path / "go").touch()
    ended(tmp_path, "runs/*/*/run.json")
    gathered = plumbrule(tmp_path, "gather", run.name)
    assert gathered.returncode == 1
    assert "  | ValueError: it broke in the background" in gathered.stderr
    watched = plumbrule(tmp_path, "watch", run.name)
    assert watched.returncode == 1
    assert "  | ValueError: it broke in the background" in watched.stdout


def test_what_is_refused_is_said_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    wrong = plumbrule(tmp_path, "submit", "ppo.kl.coef=-1", *SMALL)
    assert wrong.returncode == 2
    assert "ppo.kl.coef (=-1.0" in wrong.stdout
    assert "submitted" not in wrong.stdout
    assert not list(tmp_path.glob("runs/*/*"))
    other = plumbrule(tmp_path, "submit", "-m", "hydra/launcher=joblib", "seed=0,1")
    assert other.returncode == 2
    assert "must leave hydra/launcher to plumbrule" in other.stderr
    dry = plumbrule(tmp_path, "submit", "run.dry=true", *SMALL)
    assert dry.returncode == 0
    assert "plan of quickstart" in dry.stdout
    assert "there was nothing to leave running" in dry.stderr
    assert "of a command" in plumbrule(tmp_path, "submit", "--help").stdout


@pytest.mark.parametrize(
    ("sweep", "follow"), [(True, "tail -f /s/sweep.log"), (False, "plumbrule watch one --store /s")]
)
def test_what_is_said_of_a_submitted_command(sweep: bool, follow: str) -> None:
    """A sweep has no run to watch, so its log is followed; a store of another place is named."""
    started = Started("group/one", Path("/s/sweep.log"), Path("/s"), 7, "")
    lines = followed(started, sweep)
    assert f"  follow  {follow}" in lines
    assert "  gather  plumbrule gather one --store /s" in lines
    assert "  stop    kill 7" in lines


@pytest.mark.slow
def test_a_submitted_sweep_is_gathered_by_its_id(tmp_path: Path) -> None:
    done = plumbrule(tmp_path, "submit", "-m", "rag.chunk_words=30,40", *SMALL)
    assert done.returncode == 0, done.stderr
    found = re.search(r"submitted (\S+), process (\d+)", done.stdout)
    assert found is not None
    log = tmp_path / "runs" / "quickstart" / "sweep" / f"{found[1]}.log"
    assert f"tail -f {log}" in done.stdout
    early = plumbrule(tmp_path, "gather", found[1])  # whatever has been done so far
    assert "must name a sweep" not in early.stderr
    until = time.monotonic() + WAIT_SECONDS
    while "all metrics of the sweep" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.2)
    assert log.read_text().startswith("plan of the sweep: 2 cells")
    gathered = plumbrule(tmp_path, "gather", found[1], "--metric", "rag/chunks")
    assert gathered.returncode == 0, gathered.stderr
    assert "chunk_words=30" in gathered.stdout


def test_a_submitted_run_is_stopped_in_order(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from rag.options import DENSE_INDEXES\n"
        "@DENSE_INDEXES.register('slow')\n"
        "def slow(vectors):\n"
        "    time.sleep(600)\n"
    )
    words = ["--plugin", "slow.py", "submit", "rag.dense_index=slow", *SMALL]
    done = plumbrule(tmp_path, *words)
    found = re.search(r"stop +kill (\d+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    os.kill(int(found[1]), signal.SIGTERM)
    record = ended(tmp_path, "runs/*/*/run.json")
    assert json.loads(record.read_text())["state"] == "stopped"
    assert not list(tmp_path.rglob("claim.json"))
