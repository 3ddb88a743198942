"""A process that fails or falls silent ends the job; machines are started by srun."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from places import ROOT

from plumbrule.errors import ConfigError
from plumbrule.pipeline.launch import torchrun
from plumbrule.runtime_config import RuntimeConfig

JOB = """
import sys, time
from plumbrule.lm.parallel import distributed
from plumbrule.runtime_config import RuntimeConfig

distributed.start(RuntimeConfig(device="cpu", processes=2, silence_minutes=0.05))
distributed.barrier()
if distributed.rank() == 1:
    if sys.argv[1] == "fails":
        raise ValueError("rank 1 met a bad row")
    time.sleep(300)
distributed.barrier()
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("fails", "ValueError: rank 1 met a bad row"),
        pytest.param("silent", "Timed out", marks=pytest.mark.slow),
    ],
)
def test_one_process_ends_the_job_with_its_traceback(tmp_path: Path, how: str, said: str) -> None:
    """The other one waits in a collective; after three seconds of silence it raises."""
    script = tmp_path / "job.py"
    script.write_text(JOB, encoding="utf-8")
    began = time.monotonic()
    done = subprocess.run(
        [*torchrun(RuntimeConfig(processes=2), {}), str(script), how],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert said in done.stderr
    assert time.monotonic() - began < 100


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sharding": "fsdp"}, "runtime.sharding (=fsdp) must be none in a single process"),
        ({"sharding": "zero"}, "runtime.sharding (=zero) must be one of fsdp, none"),
        ({"nodes": 0}, "runtime.nodes (=0) must"),
        ({"silence_minutes": 0}, "runtime.silence_minutes (=0 minutes) must"),
    ],
)
def test_wrong_settings_say_what_is_wrong(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        RuntimeConfig(**settings)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_several_machines_are_started_by_srun() -> None:
    two = RuntimeConfig(processes=4, nodes=2)
    command = torchrun(two, {"SLURM_JOB_ID": "12345", "SLURMD_NODENAME": "node7"})
    assert command[:2] == ["srun", "--nodes=2"]
    assert "--nnodes=2" in command
    assert "--nproc-per-node=4" in command
    assert "--rdzv-endpoint=node7:22345" in command


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["runtime.nodes=2"], "runtime.nodes (=2) must be 1 outside a Slurm batch script"),
        (
            ["runtime=fsdp", "ppo.unfrozen_layers=2"],
            "ppo.unfrozen_layers (=2) must be left out under runtime.sharding=fsdp",
        ),
        (
            ["runtime.processes=2", "runtime.device=cuda:1"],
            "runtime.device (=cuda:1) must be cuda where there are several processes",
        ),
    ],
)
def test_what_can_not_run_is_said_before_anything_is_built(
    composed, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        composed(*overrides)
    assert said in str(error.value)
