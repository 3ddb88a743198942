"""How many threads a command may use, from folders laid out as Linux lays out /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plumbrule.machine import cpus

CPUINFO = """processor\t: 0
model name\t: A CPU of 32 cores
flags\t\t: fpu sse2 fma avx avx2 avx512f avx512_bf16 amx_bf16 amx_tile

processor\t: 1
model name\t: another line
flags\t\t: fpu
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "33 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """An affinity to eight CPUs."""
    monkeypatch.setattr(cpus, "_allowed", lambda: set(range(8)))


def write(root: Path, **files: str) -> Path:
    """Write files given by name (`/` written as `__`) under a root, and return it."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_the_model_and_the_instructions_that_matter(tmp_path: Path) -> None:
    system = write(tmp_path, proc__cpuinfo=CPUINFO)
    assert cpus.processor(system) == "A CPU of 32 cores"
    assert cpus.instructions(system) == [
        *("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
    ]


def test_without_proc_and_sys_there_are_answers_all_the_same(tmp_path: Path) -> None:
    assert cpus.processor(tmp_path)
    assert cpus.instructions(tmp_path) == []
    assert 1 <= cpus.available({}, tmp_path) <= (os.cpu_count() or 1)


def test_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpus.available({}) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("eight")
def test_two_hardware_threads_are_one_core(tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/system/cpu"
    for cpu in range(8):
        path = folder / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        path.parent.mkdir(parents=True)
        path.write_text(f"{cpu % 4},{cpu % 4 + 4}\n", encoding="utf-8")
    assert cpus.available({}, tmp_path) == 4
    assert cpus.most({}, tmp_path) == 8


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("quotas", "threads"),
    [
        ({"a/b/cpu.max": "max 100000"}, 8),
        ({"a/b/cpu.max": "300000 100000"}, 3),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "600000 100000"}, 2),  # above it: nested
        ({"a/b/cpu.max": "250000 100000"}, 2),  # rounded down
        ({"a/b/cpu.max": "50000 100000"}, 1),  # below one core
        ({"a/b/cpu.max": "nonsense"}, 8),
    ],
)
def test_a_quota_of_cgroup_version_2(tmp_path: Path, quotas: dict[str, str], threads: int) -> None:
    write(tmp_path, proc__self__mountinfo=V2, proc__self__cgroup="0::/a/b\n")
    for name, text in quotas.items():
        write(tmp_path / "sys/fs/cgroup", **{name.replace("/", "__"): text})
    assert cpus.available({}, tmp_path) == threads


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("quota", "threads"), [("-1", 8), ("400000", 4), ("20000", 1)])
def test_a_quota_of_cgroup_version_1(tmp_path: Path, quota: str, threads: int) -> None:
    groups = "4:memory:/x\n3:cpu,cpuacct:/a\n0::/\n"
    write(tmp_path, proc__self__mountinfo=V1, proc__self__cgroup=groups)
    folder = tmp_path / "sys/fs/cgroup/cpu,cpuacct"
    write(folder, **{"a__cpu.cfs_quota_us": quota, "a__cpu.cfs_period_us": "100000"})
    assert cpus.available({}, tmp_path) == threads


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize("root", ["/docker/abc", "/"])
def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path, root: str) -> None:
    """Whether the mount shows a part of the host's tree, or the path lies outside what it shows."""
    mount = V2.replace(" / /sys", f" {root} /sys")
    write(tmp_path, proc__self__mountinfo=mount, proc__self__cgroup="0::/docker/abc\n")
    write(tmp_path / "sys/fs/cgroup", **{"cpu.max": "150000 100000"})
    assert cpus.available({}, tmp_path) == 1


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("given", "threads"), [("3", 3), ("64", 8), ("0", 8), ("", 8), ("2(x4)", 8)]
)
def test_slurm_gives_a_task_its_cpus(tmp_path: Path, given: str, threads: int) -> None:
    assert cpus.available({"SLURM_CPUS_PER_TASK": given}, tmp_path) == threads
