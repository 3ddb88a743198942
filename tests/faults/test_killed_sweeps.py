"""Sweeps killed with SIGKILL at a random moment and given again: the same bytes, nothing twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from commands import start_plumbrule

INDEXES = (
    "-m",
    "rag.chunk_words=30,40,50",
    "run.goals=[index]",
    "atlas.num_known=16",
    "atlas.num_after=12",
    "runtime.threads=1",
    "tracking=jsonl",
)
TRAININGS = (
    "-m",
    "seed=0,1",
    *("experiment=rehearsal", "debug=fast", "run.goals=[sft]", "tracking=jsonl"),
    *("atlas.num_known=16", "atlas.num_after=12", "model.hidden_size=16", "model.num_layers=1"),
    *("base.batch_tokens=64", "base.sequence_tokens=64", "base.optimizer=adamw"),
    *("base.steps=200", "base.save_every=20", "sft.save_every=1", "runtime.threads=1"),
)


def begin(store: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command that can be killed with the processes that it starts."""
    store.mkdir(exist_ok=True)
    return start_plumbrule(store, *words, own_session=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Return what a command printed, which must end well."""
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-3000:]
    return said


def kill_once_it_builds(process: subprocess.Popen[str], wait_seconds: float) -> None:
    """Kill the whole process group some time after a node has begun to be built."""
    assert process.stderr is not None
    for line in process.stderr:
        if ": building" in line:
            break
    time.sleep(wait_seconds)
    with contextlib.suppress(ProcessLookupError):  # it was quicker than that
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def published(store: Path) -> dict[str, Any]:
    """Return the bytes of every published file; of manifests and rows what is no time."""
    found: dict[str, Any] = {}
    for path in (store / "artifacts").glob("*/*/**/*"):
        name = path.relative_to(store).as_posix()
        if ".build/" in name or not path.is_file():
            continue
        if path.name == "metrics.jsonl":
            found[name] = [lasting(json.loads(line)) for line in path.read_bytes().splitlines()]
        elif path.name == "manifest.json":
            about = json.loads(path.read_bytes())
            found[name] = (about["config"], about["inputs"], lasting(about["metrics"]))
        else:
            found[name] = path.read_bytes()
    return found


def lasting(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics that do not tell of time."""
    timed = ("_seconds", "_per_second")
    return {k: v for k, v in metrics.items() if not k.endswith(timed) and "time/" not in k}


def results(store: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return what each cell came to, by its overrides."""
    cells = [json.loads(path.read_bytes()) for path in store.glob("runs/*/sweep/*/cell.json")]
    assert all(cell["run"] for cell in cells)
    return {tuple(cell["overrides"]): lasting(cell["metrics"]) for cell in cells}


def times(store: Path) -> dict[Path, int]:
    """Return when each artifact was published."""
    paths = store.glob("artifacts/*/*/manifest.json")
    return {path: path.stat().st_mtime_ns for path in paths if ".build" not in str(path)}


def kill_and_compare(tmp_path: Path, words: tuple[str, ...], kills: int, seed: int) -> None:
    """Run a sweep whole, and one that is killed so often, and compare all that they leave."""
    began = time.monotonic()
    finish(begin(tmp_path / "whole", *words))
    seconds = time.monotonic() - began
    store, draw = tmp_path / "killed", random.Random(seed)
    for _ in range(kills):
        kill_once_it_builds(begin(store, *words), draw.uniform(0, seconds / 2))
    before = times(store)
    said = finish(begin(store, *words))
    built = said.count(": building") + said.count(": resuming")
    assert {path: when for path, when in times(store).items() if path in before} == before
    assert built == len(times(store)) - len(before)  # only what was missing
    assert published(store) == published(tmp_path / "whole")
    assert results(store) == results(tmp_path / "whole")
    assert not list(store.rglob("claim.json"))


@pytest.mark.slow
def test_a_sweep_killed_at_a_random_moment_leaves_the_same_bytes(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the moment: {seed}")  # shown where it fails
    kill_and_compare(tmp_path, INDEXES, 1, seed)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "local"])
def test_a_sweep_of_trainings_killed_again_and_again_leaves_the_same_bytes(
    tmp_path: Path, executor: str
) -> None:
    more = (f"executor={executor}", *(["executor.workers=2"] if executor == "local" else []))
    kill_and_compare(tmp_path, (*TRAININGS, *more), 3, 7)
