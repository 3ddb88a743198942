"""Threads of a stage's processes, how they wait, and what is recorded of a machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT

from plumbrule.machine import cpus, environment, openmp
from plumbrule.pipeline import launch
from plumbrule.pipeline.execute import RunContext, execute
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import make_plan
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Store


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that gives this command eight cores and no OMP_NUM_THREADS."""
    monkeypatch.setattr(cpus, "available", lambda: 8)
    monkeypatch.setattr(cpus, "most", lambda: 8)
    monkeypatch.setattr(openmp, "_CHOSEN", None)


@pytest.mark.usefixtures("eight")
def test_threads_are_shared_among_processes() -> None:
    assert environment.num_threads(RuntimeConfig()) == 8
    assert environment.num_threads(RuntimeConfig(processes=3)) == 2
    assert environment.num_threads(RuntimeConfig(processes=20)) == 1


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("chosen", "threads"), [("3", 3), ("12", 12), ("5,2", 5), ("0", 8), ("many", 8), ("", 8)]
)
def test_the_users_omp_num_threads_wins(
    monkeypatch: pytest.MonkeyPatch, chosen: str, threads: int
) -> None:
    monkeypatch.setattr(openmp, "_CHOSEN", chosen)
    assert environment.num_threads(RuntimeConfig()) == threads
    assert environment.num_threads(RuntimeConfig(threads=2)) == 2


@pytest.mark.usefixtures("eight")
def test_more_threads_than_there_are_become_those_and_are_said() -> None:
    assert environment.num_threads(RuntimeConfig(threads=64)) == 8
    line = environment.threads_line(RuntimeConfig(threads=64))
    assert line is not None
    assert "runtime.threads (=64)" in line
    assert "8 will be used" in line
    assert environment.num_threads(RuntimeConfig(threads=6, processes=2)) == 4
    assert environment.threads_line(RuntimeConfig(threads=8)) is None
    assert environment.threads_line(RuntimeConfig()) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, openmp.POLICY),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "1000"}, {"GOMP_SPINCOUNT": "1000"}),
        ({"KMP_BLOCKTIME": "200"}, {"KMP_BLOCKTIME": "200"}),
    ],
)
def test_the_wait_policy_is_set_unless_the_user_set_it(before: dict, after: dict) -> None:
    environment = dict(before)
    openmp.set_wait_policy(environment)
    assert environment == after


def bare(**more: str) -> dict[str, str]:
    """Return an environment without a word on threads, other than those given."""
    silent = (*openmp.SET_BY_USERS, "OMP_NUM_THREADS")
    kept = {k: v for k, v in os.environ.items() if k not in silent}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE", **more}


ENTRIES = {
    "command and label server": "import plumbrule.cli.main, plumbrule.cli.verbs",
    "torchrun worker": "import plumbrule.pipeline.worker",
    "tests": "import sys; sys.path.insert(0, 'tests/support'); import tests.conftest",
    **{
        f"scripts/{path.name}": f"import sys; sys.path.insert(0, 'scripts'); import {path.stem}"
        for path in sorted((ROOT / "scripts").glob("bench_*.py"))
    },
}


@pytest.mark.parametrize("entry", ["torchrun worker"])
def test_the_library_of_openmp_has_heard_the_policy(entry: str) -> None:
    """It says so itself."""
    done = subprocess.run(
        [sys.executable, "-c", f"{ENTRIES[entry]}; import torch"],
        capture_output=True,
        encoding="utf-8",
        env=bare(),
        cwd=ROOT,
        check=True,
    )
    said = dict(
        line.strip().replace("[host] ", "").split(" = ")
        for line in done.stderr.splitlines()
        if " = " in line
    )
    if not said:
        pytest.skip("torch's OpenMP library does not print its settings")
    assert said.get("GOMP_SPINCOUNT", "'300000'") == "'300000'"
    assert said.get("KMP_BLOCKTIME", "'0'") == "'0'"
    assert {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(said)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_sets_the_policy_before_torch(entry: str) -> None:
    """Import everything up to torch, which is kept from being imported."""
    code = (
        "import os, sys\n"
        "class Torch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print('policy', os.environ.get('OMP_WAIT_POLICY')); sys.stdout.flush()\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Torch())\n"
        f"{ENTRIES[entry]}\n"
        "import torch\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        env=bare(),
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.splitlines() == ["policy ACTIVE"], done.stderr[-500:]


def test_workers_are_given_their_share_of_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, eight: None
) -> None:
    """The real launch, with a child in torchrun's place that leaves its environment."""
    child = (
        "import json, os, sys\n"
        "with open(sys.argv[3] + '/result.json', 'w', encoding='utf-8') as file:\n"
        "    json.dump({'threads': float(os.environ['OMP_NUM_THREADS'])}, file)\n"
    )
    monkeypatch.setattr(
        launch, "torchrun", lambda runtime, environment: [sys.executable, "-c", child]
    )
    node = Node("ppo", "ppo", {}, RuntimeConfig())
    assert launch.run_in_processes(node, {}, RuntimeConfig(processes=2), tmp_path) == {"threads": 4}


def test_a_manifest_holds_what_makes_figures_comparable(composed: Callable, tmp_path: Path) -> None:
    _, nodes = composed("atlas.num_known=16", "atlas.num_after=12", "run.goals=[documents]")
    store = Store(tmp_path)
    runtime = RuntimeConfig(threads=1)
    context = RunContext("t/1", tmp_path / "runs/t/1", store, runtime)
    built = execute(make_plan(nodes, store), context, lambda line: None)
    about = built["documents"].manifest.hardware
    assert about["threads"] == 1
    assert about["processor"] == cpus.processor()
    assert about["instructions"] == " ".join(cpus.instructions())
    assert about["float32_gflops"] > 0.1
    assert about["bfloat16_gflops"] > 0.001


def test_a_checkpoint_knows_where_it_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.prepare(RuntimeConfig(threads=1))
    saved = checkpoints.save(tmp_path, 3, lambda folder: (folder / "x").write_bytes(b"1") and None)
    assert checkpoints.is_complete(saved)
    there = checkpoints.written_on(saved)
    assert there == environment.compared()
    assert environment.moved(saved, RuntimeConfig(threads=1)) is None
    monkeypatch.setattr(cpus, "most", lambda: 2)
    assert environment.moved(saved, RuntimeConfig(threads=2)) == "threads 1, here 2"
    monkeypatch.setattr(cpus, "processor", lambda: "another CPU")
    assert environment.moved(saved, RuntimeConfig(threads=1)) == (
        f"processor {there['processor']}, here another CPU"
    )
    (saved / checkpoints.WHERE).unlink()
    assert environment.moved(saved, RuntimeConfig(threads=2)) is None


def test_a_run_that_is_resumed_elsewhere_says_so(
    composed: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, nodes = composed("atlas.num_known=16", "atlas.num_after=12", "run.goals=[documents]")
    store = Store(tmp_path)
    context = RunContext("t/1", tmp_path / "runs/t/1", store, RuntimeConfig(threads=1))
    (planned,) = make_plan(nodes, store)
    environment.prepare(RuntimeConfig(threads=1))
    begun = store.folder("data", planned.fingerprint) / "checkpoints"
    saved = checkpoints.save(begun, 1, lambda folder: (folder / "x").write_bytes(b"1") and None)
    about = {**json.loads((saved / checkpoints.WHERE).read_text("utf-8")), "processor": "a VAX"}
    (saved / checkpoints.WHERE).write_text(json.dumps(about), encoding="utf-8")
    sizes = json.loads((saved / checkpoints.MARK).read_text("utf-8"))
    sizes[checkpoints.WHERE] = (saved / checkpoints.WHERE).stat().st_size
    (saved / checkpoints.MARK).write_text(json.dumps(sizes), encoding="utf-8")
    said: list[str] = []
    execute(make_plan(nodes, store), context, said.append)
    assert any("written elsewhere (processor a VAX, here" in line for line in said), said


def test_the_commit_is_of_the_repository_that_tracks_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment may lie inside a repository of the user's."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.git_state.__wrapped__() == {}
