"""The count of turns that OpenMP's threads spin follows whether others want the cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from plumbrule.machine import contention, cpus, openmp
from plumbrule.machine.openmp import SET_BY_USERS

WAITS = """
import plumbrule.machine.openmp
import json, os, sys, time, torch
from plumbrule.machine import contention

torch.set_num_threads(2)
numbers = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))


def share():
    '''CPU seconds per second of a process that computes little and waits much, on two threads.'''
    used, begun = time.process_time(), time.monotonic()
    for _ in range(100):
        numbers * 1.0
        time.sleep(0.003)
    return (time.process_time() - used) / (time.monotonic() - begun)


def product():
    return (numbers @ numbers).sum(dim=1).tolist()


share()
found = {"alone": share(), "product": product()}
contention.BUSY_PER_SECOND = 0.0  # whatever the kernel counts, others are busy
found["watched"] = contention.watch() and contention.watch()
time.sleep(3 * contention.PERIOD_SECONDS)
found |= {"beside": share(), "product beside": product()}
contention.BUSY_PER_SECOND = 1e9
time.sleep((contention.QUIET_PERIODS + 3) * contention.PERIOD_SECONDS)
found["alone again"] = share()
print(json.dumps(found))
"""


def ran(code: str, **more: str) -> dict:
    environment = {k: v for k, v in os.environ.items() if k not in SET_BY_USERS}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(cpus.available() < 2, reason="two threads need two cores")
@pytest.mark.slow
def test_threads_spin_alone_and_sleep_beside_others() -> None:
    """CPU time, which no load changes much, tells whether a waiting thread spins."""
    found = ran(WAITS)
    if not found["watched"]:
        pytest.skip("torch's OpenMP library is not GCC's")
    assert found["beside"] < 0.4 * found["alone"]
    assert found["beside"] < 0.4 * found["alone again"]
    assert found["product"] == found["product beside"]


COUNTS = """
import plumbrule.machine.openmp
import json, subprocess, sys, threading, time
from plumbrule.machine import contention

before, begun, used = contention._times_taken(), time.monotonic(), time.process_time()
rivals = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
while time.monotonic() < begun + 3:
    pass
[rival.kill() for rival in rivals]
counted = contention._times_taken() - before, time.monotonic() - begun, time.process_time() - used
print(json.dumps({"counted": counted}))
"""


@pytest.mark.skipif(cpus.available() > 4, reason="four rivals must want more cores than there are")
def test_a_busy_neighbour_is_counted() -> None:
    """One thread beside four others: the kernel takes its core many times a second."""
    counted = ran(COUNTS)["counted"]
    assert contention.are_others_busy(*counted), counted


@pytest.mark.parametrize(
    ("times_taken", "cpu_seconds", "busy"),
    [
        (100, 2.0, True),  # two threads beside one neighbour
        (39, 2.0, False),  # what wakes up now and then takes a core for a moment
        (40, 1.0, True),
        (36, 0.125, True),  # two threads among thirty others
        (9, 0.01, False),  # it hardly computes
        (10, 0.01, True),
    ],
)
def test_a_process_with_less_than_a_core_counts_fewer(
    times_taken: int, cpu_seconds: float, busy: bool
) -> None:
    assert contention.are_others_busy(times_taken, 1.0, cpu_seconds) is busy


def test_nothing_is_watched_without_gccs_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_library", lambda: None)
    monkeypatch.setattr(contention, "_watch", None)
    assert contention.watch() is False


def test_nothing_is_watched_where_no_process_can_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(contention, "Path", lambda _: tmp_path / "absent")
    assert contention._library() is None


def test_a_users_wait_policy_is_not_ours() -> None:
    assert openmp.is_ours(dict(openmp.POLICY))
    assert not openmp.is_ours({**openmp.POLICY, "GOMP_SPINCOUNT": "10"})
    assert not openmp.is_ours({**openmp.POLICY, "KMP_LIBRARY": "throughput"})
    assert not openmp.is_ours({})
