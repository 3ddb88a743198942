"""Real processes killed with SIGKILL, cells started together, and a disk that fills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

pytestmark = pytest.mark.slow

CHAIN = (
    "experiment=rehearsal",
    "debug=fast",
    "base.save_every=1",
    "sft.save_every=1",
    "rm.save_every=1",
    "ppo.save_every=1",
    "dpo.save_every=1",
)
STAGES = {
    "base": "base",
    "sft": "sft",
    "feedback": "feedback",
    "rm": "rm",
    "index": "index",
    "ppo": "ppo",
    "dpo": "dpo",
    "eval_sft": "eval",
}
"""Node -> kind."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "plumbrule", *CHAIN, *arguments]


def environment(store: Path) -> dict[str, str]:
    return {**os.environ, "PLUMBRULE_STORE": str(store), "OMP_NUM_THREADS": "1"}


def run(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments),
        env=environment(store),
        cwd=store,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def manifest(store: Path, kind: str) -> dict:
    paths = list(store.glob(f"artifacts/{kind}/*/manifest.json"))
    assert len(paths) == 1
    return json.loads(paths[0].read_text())


def lasting(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that do not tell of time."""
    ends = ("_seconds", "_per_second")
    return {k: v for k, v in metrics.items() if not k.startswith("time/") and not k.endswith(ends)}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which nothing was killed."""
    store = tmp_path_factory.mktemp("reference")
    run(store, "run.goals=[eval_sft,ppo,dpo]")
    return store


@pytest.mark.parametrize("node", list(STAGES))
def test_a_killed_stage_comes_to_the_same(reference: Path, tmp_path: Path, node: str) -> None:
    """Kill the stage once it has claimed its work, and again after each tenth of a second more."""
    kind = STAGES[node]
    store = tmp_path / "store"
    shutil.copytree(reference, store)
    shutil.rmtree(store / "artifacts" / kind)
    for delay in (0.2, 1.5, 4.0):
        process = subprocess.Popen(
            command(f"run.only={node}"),
            env=environment(store),
            cwd=store,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"{node}: "):
                break
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(store, f"run.only={node}")
    killed, whole = manifest(store, kind), manifest(reference, kind)
    assert killed["fingerprint"] == whole["fingerprint"]
    assert lasting(killed["metrics"]) == lasting(whole["metrics"])
    weights = {k: v["sha256"] for k, v in killed["files"].items() if k.endswith(".safetensors")}
    assert weights == {
        k: v["sha256"] for k, v in whole["files"].items() if k.endswith(".safetensors")
    }


def test_four_cells_started_together_train_shared_stages_once(tmp_path: Path) -> None:
    cells = [
        subprocess.Popen(
            command(f"ppo.kl.coef={coef}", "run.goals=[ppo]"),
            env=environment(tmp_path),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for coef in (0.01, 0.02, 0.05, 0.1)
    ]
    said = [cell.communicate(timeout=1200)[1] for cell in cells]
    assert [cell.returncode for cell in cells] == [0] * 4, said
    for node in ("base", "sft", "rm"):
        assert sum(f"{node}: building" in text for text in said) == 1, node
    assert len(list(tmp_path.glob("artifacts/sft/*"))) == 1
    assert len(list(tmp_path.glob("artifacts/ppo/*/manifest.json"))) == 4


def test_a_full_disk_leaves_the_last_good_state(reference: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def build() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("run.only=base", "base.steps=60", "model.hidden_size=256"),
            env=environment(disk),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    try:
        done = build()
        assert done.returncode == 1, done.stderr[-2000:]
        assert "must have room to write on" in done.stderr
        assert not list(disk.glob("artifacts/base/*/manifest.json"))
        assert list(disk.glob("artifacts/data/*/manifest.json"))  # what was published stands
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        resumed = build()
        assert resumed.returncode == 0, resumed.stderr[-2000:]
        assert list(disk.glob("artifacts/base/*/manifest.json"))
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_ppo_killed_at_ten_random_moments_ends_with_the_same_bytes() -> None:
    script = ROOT / "scripts" / "kill_test.py"
    done = subprocess.run(
        [sys.executable, str(script), "--n", "10"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert ", 0 differ" in done.stdout
