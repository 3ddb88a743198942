"""What each process, task or job of an executor is given."""

from __future__ import annotations

import inspect
import os
import re
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loky import process_executor

from plumbrule.errors import ConfigError, DataError, NeedsInput, TrainingError
from plumbrule.machine import environment
from plumbrule.pipeline.executors import local, memory
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.described import error_of
from plumbrule.pipeline.executors.memory import Room, available_bytes
from plumbrule.pipeline.executors.resources import resources_of
from plumbrule.pipeline.executors.slurm import Jobs
from plumbrule.runtime_config import RuntimeConfig

GIB = 2**30


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.cpus, "available", lambda: 8)
    monkeypatch.setattr(environment.cpus, "most", lambda: 8)
    monkeypatch.setattr(environment.openmp, "_CHOSEN", None)


@pytest.mark.parametrize(
    ("workers", "threads", "found"),
    [(None, None, [1] * 8), (2, None, [4, 4]), (None, 4, [4, 4]), (3, 1, [1, 1, 1])],
)
def test_cores_are_shared_among_processes(
    eight_cores: None, workers: int | None, threads: int | None, found: list[int]
) -> None:
    config = ExecutorConfig(name="local", workers=workers)
    given = local.environments(config, RuntimeConfig(device="cpu", threads=threads))
    assert [int(variables["OMP_NUM_THREADS"]) for variables in given] == found
    assert all("CUDA_VISIBLE_DEVICES" not in variables for variables in given)


@pytest.mark.parametrize(
    ("visible", "workers", "processes", "found"),
    [
        (None, None, 1, ["0", "1", "2", "3"]),
        (None, 2, 1, ["0", "1"]),
        (None, None, 2, ["0,1", "2,3"]),
        ("7,5,3,1", 2, 2, ["7,5", "3,1"]),
    ],
)
def test_each_process_has_accelerators_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    workers: int | None,
    processes: int,
    found: list[str],
) -> None:
    monkeypatch.setattr(local, "num_accelerators", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = ExecutorConfig(name="local", workers=workers)
    given = local.environments(config, RuntimeConfig(device="cuda", processes=processes))
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in given] == found


@pytest.mark.parametrize(("workers", "device"), [(5, "cuda"), (2, "cuda:1")])
def test_more_processes_than_accelerators_are_refused(
    monkeypatch: pytest.MonkeyPatch, workers: int, device: str
) -> None:
    monkeypatch.setattr(local, "num_accelerators", lambda: 4)
    with pytest.raises(ConfigError, match=r"executor.workers \(=\d\) must leave each process 1"):
        local.environments(ExecutorConfig(workers=workers), RuntimeConfig(device=device))


def test_a_process_that_has_grown_is_replaced_without_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nodes differ in size, which loky takes for a leak: users were told of one in each sweep."""
    if "LOKY_MAX_MEMORY_LEAK_SIZE" not in inspect.getsource(process_executor):
        pytest.skip("this version of loky takes no limit from the environment")
    monkeypatch.setattr(local, "build", lambda *given: (time.sleep(1.1), os.getpid())[1])

    def replaced() -> list[str]:
        """Have a process replaced while jobs wait, and return what loky said of it."""
        slot = local.WorkerSlot({"LOKY_MAX_MEMORY_LEAK_SIZE": "-1e12"})  # any has grown by more
        with warnings.catch_warnings(record=True) as said:
            pids = [future.result() for future in [slot.submit({}) for _ in range(3)]]
            slot.drop()
        assert len(set(pids)) > 1
        return [str(one.message) for one in said if re.match(local.REPLACED, str(one.message))]

    assert len(replaced()) == 1
    with local.replaced_without_warning():
        assert replaced() == []


def test_a_node_starts_only_where_there_is_room_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {5 * 2**20} kB\n")
    jobs: list[Any] = [SimpleNamespace(key=n) for n in range(3)]
    room = Room(2.0, tmp_path)
    assert [room.take(job, None) for job in jobs] == [True, True, False]  # type: ignore[arg-type]
    room.give_back(jobs[0])
    assert room.take(jobs[2], None)  # type: ignore[arg-type]
    alone = Room(64.0, tmp_path)
    assert alone.take(jobs[0], None)  # type: ignore[arg-type]
    assert not alone.take(jobs[1], None)  # type: ignore[arg-type]


def test_the_least_of_machine_and_cgroup_is_free(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable: 4194304 kB\n")
    assert available_bytes(tmp_path) == 4 * GIB
    cgroup = tmp_path / "sys" / "fs" / "cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.current").write_text(str(GIB))
    (cgroup / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) == 4 * GIB
    (cgroup / "memory.max").write_text(str(3 * GIB))
    assert available_bytes(tmp_path) == 2 * GIB


def test_what_a_node_needs_is_what_its_plan_reckons(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [SimpleNamespace(memory=SimpleNamespace(total=7.0 * GIB))]
    monkeypatch.setattr(memory, "memory_needs", lambda config, planned, shape: needs)
    monkeypatch.setattr(memory, "model_folder", lambda model: None)
    monkeypatch.setattr(memory, "shape_of", lambda model, folder: object())
    owner: Any = SimpleNamespace(config=SimpleNamespace(model=None))
    job: Any = SimpleNamespace(key=0, planned=None)
    assert Room(None).needed(job, owner) == 7 * GIB
    needs.clear()
    assert Room(None).needed(job, owner) == GIB


@pytest.mark.parametrize(
    ("config", "runtime", "found"),
    [
        ({}, {"device": "cpu"}, (1, 0, None)),
        ({}, {"device": "cpu", "threads": 4}, (4, 0, None)),
        ({}, {"device": "cuda", "processes": 2}, (2, 2, None)),
        ({"cpus": 6, "gpus": 1, "memory_gib": 2}, {"device": "cpu"}, (6, 1, 2 * GIB)),
        ({"name": "ray", "gpus": 0.5}, {"device": "cuda"}, (1, 0.5, None)),
    ],
)
def test_what_a_node_asks_of_a_cluster(config: dict, runtime: dict, found: tuple) -> None:
    assert resources_of(ExecutorConfig(**config), RuntimeConfig(**runtime)) == found


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "dask"}, "executor.name"),
        ({"workers": 0}, "executor.workers"),
        ({"gpus": 0.5, "name": "slurm"}, "executor.gpus"),
        ({"gpus": 1.5, "name": "ray"}, "executor.gpus"),
        ({"memory_gib": 0}, "executor.memory_gib"),
        ({"time_minutes": 0}, "executor.time_minutes"),
    ],
)
def test_wrong_settings_are_refused(config: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ExecutorConfig(**config)


def test_errors_come_back_as_what_they_were(tmp_path: Path) -> None:
    data = error_of({"error": "DataError", "text": "x.jsonl, row 3: bad"}, "prompts", None)
    assert isinstance(data, DataError)
    assert str(data) == "x.jsonl, row 3: bad"
    other = error_of({"error": "ValueError", "text": "odd"}, "sft", tmp_path / "sft.log")
    assert isinstance(other, TrainingError)
    assert str(other) == f"sft: ValueError: odd; its output: {tmp_path / 'sft.log'}"
    about = {"error": "NeedsInput", "text": "", "path": "a/b", "what": "rank them"}
    waits = error_of(about, "feedback", None)
    assert isinstance(waits, NeedsInput)
    assert (waits.path, waits.what) == (Path("a/b"), "rank them")


SBATCH = """#!/bin/sh
number=$(($(cat "$0.count" 2>/dev/null || echo 40) + 1))
echo $number > "$0.count"
cp "$1" "$0.$number"
echo "Submitted batch job $number"
"""


def test_a_slurm_job_stands_behind_those_of_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sbatch` is a script that keeps what it is given: there is no Slurm here."""
    pytest.importorskip("submitit", reason="submitit is not here")
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n"), ("scancel", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    config = ExecutorConfig(
        name="slurm", partition="gpu", time_minutes=90, memory_gib=16, sbatch={"account": "mine"}
    )
    owner = SimpleNamespace(
        begin=lambda: tmp_path, runtime=RuntimeConfig(device="cuda", processes=2, threads=3)
    )
    graph: Any = SimpleNamespace(owner=lambda job: owner, outcomes={}, running={})
    jobs = Jobs(graph, config, "slurm")
    monkeypatch.setattr(
        "plumbrule.pipeline.executors.slurm.describe",
        lambda graph, job: {"log": str(tmp_path / f"{job.name}.log")},
    )
    fingerprint = SimpleNamespace(fingerprint="f" * 16)
    for name, needs in (("sft", []), ("rm", []), ("ppo", ["sft", "rm"])):
        job: Any = SimpleNamespace(name=name, key=name, needs=needs, planned=fingerprint)
        jobs.submit(job)
    first, last = ((tmp_path / f"sbatch.{number}").read_text() for number in (41, 43))
    assert "dependency" not in first
    for option in (
        "--dependency=afterany:41:42",
        "--account=mine",
        "--partition=gpu",
        "--time=90",
        "--gpus-per-node=2",
        "--cpus-per-task=6",
        "--mem=16GB",
        "--job-name=ppo-ffffffff",
    ):
        assert f"#SBATCH {option}\n" in last
    jobs.cancel()
    assert not list(tmp_path.rglob("*.pkl"))
