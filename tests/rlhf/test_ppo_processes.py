"""Two gloo processes compute what one computes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import ppo_world as world
import pytest
import torch

from rlhf import ppo, rollouts
from rlhf.rollouts import Rollout


def launch(mode: str, folder: Path, processes: int) -> None:
    """Run `ppo_world.py <mode> <folder>` in that many processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(ppo.__file__).parents[1]
    running = []
    for rank in range(processes):
        environment = {
            **os.environ,
            "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(processes),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        command = [sys.executable, world.__file__, mode, str(folder)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()[-3000:]


@pytest.mark.detail(24)
@pytest.mark.detail(27)
def test_twenty_updates_on_recorded_rollouts_end_with_the_same_weights(tmp_path: Path) -> None:
    """In float64, to 1e-9. Rows differ in length, so means per process would differ (below)."""
    (tmp_path / "two").mkdir()
    launch("steps", tmp_path / "two", 2)
    (tmp_path / "one").mkdir()
    world.twenty_updates(tmp_path / "one")
    one, two = (torch.load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    assert one.dtype == torch.float64
    assert torch.allclose(one, two, rtol=0, atol=1e-9)
    start = world.weights(world.learner_of(world.config()))
    assert float((one - start).abs().max()) > 1e-2
    # What would show a divisor per process: the two halves of a mini-batch hold unequal counts.
    rollout = world.recorded(world.learner_of(world.config()))
    lengths = rollout.trajectory.action_mask.sum(1)
    assert int(lengths[0::2].sum()) != int(lengths[1::2].sum())


@pytest.mark.detail(24)
def test_a_whole_run_in_two_processes(tmp_path: Path) -> None:
    """The same responses, whitened over all rows; one process writes."""
    folders = []
    for name, processes in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        world.build(folder)
        launch("run", folder, processes)
        folders.append(folder / "out")
    one, two = (
        [rollouts.read(path) for path in sorted((out / "rollouts").iterdir())] for out in folders
    )
    assert len(one) == len(two) == world.config().num_updates
    for alone, shared in zip(one, two, strict=True):
        assert alone.trajectory.responses == shared.trajectory.responses
        assert alone.trajectory.texts == shared.trajectory.texts
        for name in Rollout._fields[1:]:
            if name != "terms":
                pair = getattr(alone, name), getattr(shared, name)
                assert torch.allclose(*pair, rtol=1e-3, atol=1e-4), name
    files = [sorted(p.name for p in out.rglob("*") if p.is_file()) for out in folders]
    assert files[0] == files[1]
