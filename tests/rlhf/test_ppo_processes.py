"""Two and three gloo processes compute what one computes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import ppo_world as world
import pytest
import torch

from plumbrule.tracking import FileTracker
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one and what two processes leave behind: `weights.pt` and a whole run's `out`.

    One process alone also leaves the weights of three, in a folder `three`.
    """
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for folder in (one, two):
        world.build(folder)
        (folder / "out").mkdir()
    launch("both", two, 2)
    (three := one / "three").mkdir()
    launch("updates", three, 3)
    world.twenty_updates(one)
    out = one / "out"
    ppo.run(world.config(), world.inputs_in(one), world.runtime(), out, FileTracker(out))
    return one, two


@pytest.mark.detail(24)
@pytest.mark.detail(27)
def test_twenty_updates_on_recorded_rollouts_end_with_the_same_weights(
    folders: tuple[Path, Path],
) -> None:
    """In float64, to 1e-9. Rows differ in length, so means per process would differ (below)."""
    one, two, three = (
        torch.load(folder / "weights.pt", weights_only=True)
        for folder in (*folders, folders[0] / "three")
    )
    assert one.dtype == torch.float64
    assert torch.allclose(one, two, rtol=0, atol=1e-9)
    assert torch.allclose(one, three, rtol=0, atol=1e-9)
    start = world.weights(world.learner_of(world.config()))
    assert float((one - start).abs().max()) > 1e-2
    # What would show a divisor per process: the two halves of a mini-batch hold unequal counts.
    rollout = world.recorded(world.learner_of(world.config()))
    lengths = rollout.trajectory.action_mask.sum(1)
    assert int(lengths[0::2].sum()) != int(lengths[1::2].sum())


@pytest.mark.detail(24)
@pytest.mark.detail(44)
def test_a_whole_run_in_two_processes(folders: tuple[Path, Path]) -> None:
    """The same responses, whitened over all rows; one process writes."""
    outs = [folder / "out" for folder in folders]
    one, two = (
        [rollouts.read(path) for path in sorted((out / "rollouts").iterdir())] for out in outs
    )
    assert len(one) == len(two) == world.config().num_updates
    for alone, shared in zip(one, two, strict=True):
        assert alone.trajectory.responses == shared.trajectory.responses
        assert alone.trajectory.texts == shared.trajectory.texts
        for name in Rollout._fields[1:]:
            if name != "terms":
                pair = getattr(alone, name), getattr(shared, name)
                assert torch.allclose(*pair, rtol=1e-3, atol=1e-4), name
    files = [sorted(p.name for p in out.rglob("*") if p.is_file()) for out in outs]
    assert files[0] == files[1]
