"""The same artifacts, byte for byte, whoever builds them; and what becomes of lost processes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import plumbrule, start_plumbrule

from plumbrule.errors import ConfigError
from plumbrule.pipeline.executors.config import ExecutorConfig

SMALL = (
    "-m",
    "rag.chunk_words=30,40",
    "run.goals=[index]",
    "atlas.num_known=16",
    "atlas.num_after=12",
    "runtime.threads=1",
    "tracking=jsonl",
    "executor.workers=2",
)


def contents(store: Path) -> dict[str, bytes]:
    """Return every published file but manifests, which tell times, by its path in the store."""
    files = [path for path in (store / "artifacts").rglob("*") if path.is_file()]
    named = {path.relative_to(store).as_posix(): path for path in files}
    return {n: path.read_bytes() for n, path in named.items() if not n.endswith("manifest.json")}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("serial")
    done = plumbrule(store, *SMALL)
    assert done.returncode == 0, done.stderr
    return contents(store)


@pytest.mark.parametrize(
    ("executor", "needs"),
    [
        ("local", "loky"),
        pytest.param("submitit_local", "submitit", marks=pytest.mark.slow),
        pytest.param("ray", "ray", marks=pytest.mark.slow),
    ],
)
def test_two_workers_publish_the_same_bytes(
    tmp_path: Path, serial: dict[str, bytes], executor: str, needs: str
) -> None:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not here")
    done = plumbrule(tmp_path, *SMALL, f"executor={executor}")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == serial
    assert len({name.split("/")[2] for name in serial}) == 3  # documents once, an index each
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/run.json")]
    states = sorted(r["nodes"][node]["state"] for r in records for node in r["nodes"])
    assert states == ["built", "built", "built", "cached"]
    logs = [path.read_text() for path in tmp_path.glob("runs/*/*/logs/*.log")]
    assert len(logs) == 3
    assert not list(tmp_path.rglob("*.pkl"))
    assert not list(tmp_path.rglob("*.begun"))
    assert "of 3 nodes 3 done, 0 cached, 0 running] " in done.stderr


KILLED = """
import os, signal
from rag.options import DENSE_INDEXES


@DENSE_INDEXES.register("killed")
def killed(vectors):
    print("about to go", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("executor", "needs", "how"),
    [
        ("local", "loky", "its process ended without an answer (out of memory?)"),
        pytest.param(
            "submitit_local", "submitit", "ended without an answer (", marks=pytest.mark.slow
        ),
        pytest.param(
            "ray", "ray", "its Ray task was lost (WorkerCrashedError", marks=pytest.mark.slow
        ),
    ],
)
def test_a_process_that_is_killed_fails_its_own_node(
    tmp_path: Path, executor: str, needs: str, how: str
) -> None:
    """As the kernel does for want of memory, Slurm to a job that is cancelled, Ray to a worker."""
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not here")
    (tmp_path / "killed.py").write_text(KILLED)
    words = [word for word in SMALL if not word.startswith("rag.")]
    arguments = ["--plugin", "killed.py", *words, "rag.dense_index=killed,flat"]
    done = plumbrule(tmp_path, *arguments, f"executor={executor}")
    assert done.returncode == 1, done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/run.json")]
    by_state = {record["state"]: record for record in records}
    assert set(by_state) == {"done", "failed"}
    assert how in by_state["failed"]["error"]
    (failure,) = tmp_path.glob("runs/quickstart/sweep/*/failure.json")
    log = (
        tmp_path
        / json.loads(failure.read_text())["error"].split("its output: ")[1].split(".log")[0]
    )
    assert "about to go" in log.with_suffix(".log").read_text()
    gathered = plumbrule(tmp_path, "gather", "quickstart")
    assert gathered.returncode == 1
    assert gathered.stderr.count("  | about to go") == 1


@pytest.mark.slow
def test_what_a_node_printed_elsewhere_is_gathered_with_its_cell(tmp_path: Path) -> None:
    if importlib.util.find_spec("loky") is None:
        pytest.skip("loky is not here")
    (tmp_path / "broken.py").write_text(
        "from rag.options import DENSE_INDEXES\n"
        "@DENSE_INDEXES.register('broken')\n"
        "def broken(vectors):\n"
        "    print(f'{len(vectors)} vectors came here')\n"
        "    raise ValueError('it broke')\n"
    )
    words = ["--plugin", "broken.py", *SMALL, "rag.dense_index=broken", "executor=local"]
    assert plumbrule(tmp_path, *words).returncode == 1
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/run.json")]
    assert sorted(record["log"].split("/")[-1] for record in records) == ["index.log"] * 2
    logs = [(tmp_path / record["log"]).read_text(encoding="utf-8") for record in records]
    assert all(log.count("vectors came here") == 1 for log in logs)
    gathered = plumbrule(tmp_path, "gather", "quickstart")  # with the last lines of those logs
    assert gathered.returncode == 1
    assert gathered.stderr.count("  | ValueError: it broke") == 2


def test_a_ray_cluster_that_is_not_there_is_one_line() -> None:
    pytest.importorskip("ray", reason="ray is not here")
    from plumbrule.pipeline.executors.ray_tasks import start

    config = ExecutorConfig(name="ray", address="127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"executor.address \(=127.0.0.1:1\) must be a Ray clus"):
        start(config, None)  # type: ignore[arg-type]


NO_TOKENS = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def ray_head(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A Ray cluster of its own, by its address, and what ends it at once."""
    pytest.importorskip("ray", reason="ray is not here")
    import psutil

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    port = port if port > 20000 else port + 20000  # Ray's workers have those from 10002 to 19999
    folder = tempfile.mkdtemp(prefix="ray-")  # a socket's path must be short
    head = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *(f"--port={port}", "--num-cpus=1", "--include-dashboard=false"),
            f"--temp-dir={folder}",
        ],
        env={**os.environ, **NO_TOKENS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def end() -> None:
        if head.poll() is None:
            own = psutil.Process(head.pid)
            for process in [own, *own.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait()

    try:
        for _ in range(120):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.5)
        yield f"127.0.0.1:{port}", end
    finally:
        end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_ray_cluster_that_goes_away_fails_what_it_had_and_the_rest_stands(
    tmp_path: Path, ray_head: tuple[str, Callable[[], None]]
) -> None:
    address, end = ray_head
    words = [word for word in SMALL if not word.startswith(("rag.", "executor."))]
    words += ["rag.chunk_words=range(30,36)"]
    on_ray = ("executor=ray", f"executor.address={address}")
    process = start_plumbrule(tmp_path, *words, *on_ray, **NO_TOKENS)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.count("index (rag.chunk_words=") and "built in" in line:
            end()
    assert process.wait() == 1, said
    assert any("its Ray cluster at" in line and "went away. Run the same" in line for line in said)
    kept = {path.parent.name for path in tmp_path.glob("artifacts/index/*/manifest.json")}
    assert 1 <= len(kept) < 6
    done = plumbrule(tmp_path, *words)  # any executor goes on from the store
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("index: building") == 6 - len(kept)
    assert "documents: building" not in done.stderr


@pytest.mark.slow
def test_a_job_that_is_cancelled_fails_its_node_and_is_taken_up_again(tmp_path: Path) -> None:
    """Submitit's processes of this machine stand in for Slurm's jobs, SIGINT for scancel."""
    pytest.importorskip("submitit", reason="submitit is not here")
    words = (
        *("experiment=rehearsal", "debug=fast", "run.goals=[sft]", "tracking=jsonl"),
        *("atlas.num_known=16", "atlas.num_after=12", "model.hidden_size=16", "model.num_layers=1"),
        *("base.batch_tokens=64", "base.sequence_tokens=64", "base.optimizer=adamw"),
        *("base.steps=1000", "base.save_every=20", "runtime.threads=1"),
    )
    process = start_plumbrule(tmp_path, *words, "executor=submitit_local", "executor.workers=1")
    until = time.monotonic() + 300
    while not (begun := list(tmp_path.glob("artifacts/base/*.build/*/checkpoints/*/COMPLETE"))):
        assert time.monotonic() < until
        time.sleep(0.2)
    claim = json.loads((begun[0].parents[3] / "claim.json").read_text(encoding="utf-8"))
    os.kill(claim["pid"], signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "base: its process was stopped by SIGINT (a cancelled job, or one out of time)" in said
    assert not list(tmp_path.glob("artifacts/sft/*"))  # what needed it was not run
    assert list(tmp_path.glob("artifacts/data/*/manifest.json"))
    assert not list(tmp_path.rglob("claim.json"))
    done = plumbrule(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "base: resuming base/" in done.stderr
