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
from safetensors.torch import load_file

from plumbrule.checkpoints import newest
from plumbrule.errors import ConfigError
from plumbrule.tracking import FileTracker
from rlhf import ppo, rollouts
from rlhf.ppo_state import load_state
from rlhf.rollouts import Rollout


def launch(mode: str, folder: Path, processes: int, pause_at: int = 0) -> None:
    """Run `ppo_world.py <mode> <folder>` in that many processes, as torchrun would.

    They are killed once they have logged update `pause_at`.
    """
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
        command = [sys.executable, world.__file__, mode, str(folder), str(pause_at)]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe))
    if pause_at:
        assert running[0].stdout is not None
        assert running[0].stdout.readline() == b"paused\n"
        for process in running:
            process.kill()
            process.communicate()
        return
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


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole run in float64 by one process, by two, and by three that hold a third of it each.

    The last also leaves `weights.pt`, of twenty updates on recorded rollouts.
    """
    folders = {name: tmp_path_factory.mktemp(name) for name in ("alone", "two", "spread")}
    for folder in folders.values():
        world.build(folder, exact=True)
        (folder / "out").mkdir()
    launch("float64", folders["alone"], 1)
    launch("float64", folders["two"], 2)
    launch("fsdp", folders["spread"], 3)
    return folders


@pytest.mark.detail(49)
@pytest.mark.parametrize("how", ["two", "spread"])
def test_own_rollouts_in_float64_are_the_same_tokens_and_end_with_the_same_weights(
    exact: dict[str, Path], how: str
) -> None:
    """Weights to 1e-8. What is published of weights that were spread is whole."""
    alone, several = exact["alone"] / "out", exact[how] / "out"
    paths = sorted((alone / "rollouts").iterdir())
    assert len(paths) == world.config().num_updates
    for path in paths:
        one, other = rollouts.read(path), rollouts.read(several / "rollouts" / path.name)
        assert one.trajectory.responses == other.trajectory.responses
        assert torch.allclose(one.advantages, other.advantages, rtol=0, atol=1e-6)
    for name in ("model/model.safetensors", "value/model.safetensors"):
        ours, theirs = load_file(alone / name), load_file(several / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-8), key
    before = load_file(exact["alone"] / "sft" / "model" / "model.safetensors")
    after = load_file(alone / "model/model.safetensors")
    assert max(float((after[key] - before[key]).abs().max()) for key in after) > 1e-3
    files = [sorted(p.name for p in out.rglob("*") if p.is_file()) for out in (alone, several)]
    assert files[0] == files[1]


def test_weights_that_are_spread_learn_what_whole_ones_do(
    folders: tuple[Path, Path], exact: dict[str, Path]
) -> None:
    """Twenty updates on recorded rollouts, in float64, to 1e-9."""
    one, spread = (
        torch.load(folder / "weights.pt", weights_only=True)
        for folder in (folders[0], exact["spread"])
    )
    assert torch.allclose(one, spread, rtol=0, atol=1e-9)


def test_weights_that_are_spread_resume_and_are_averaged(tmp_path: Path) -> None:
    """Killed after update 3, with checkpoints after 2 and 4; against whole weights never killed."""
    whole, spread = tmp_path / "whole", tmp_path / "spread"
    for folder in (whole, spread):
        world.build(folder, exact=True)
        (folder / "out").mkdir()
    launch("float64-options", whole, 1)
    launch("fsdp-options", spread, 2, pause_at=3)
    assert not (spread / "out" / "model").exists()
    launch("fsdp-options", spread, 2)
    for name in ("model/model.safetensors", "value/model.safetensors"):
        ours, theirs = load_file(whole / "out" / name), load_file(spread / "out" / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-8), key
    learner = world.learner_of(world.config())
    saved = newest(spread / "out" / "checkpoints")
    assert saved is not None
    with pytest.raises(ConfigError, match="spread over them, on cpu, and this run has 1"):
        load_state(saved[1], learner)


@pytest.mark.slow
def test_an_adapter_learns_on_weights_that_are_spread(tmp_path: Path) -> None:
    whole, spread = tmp_path / "whole", tmp_path / "spread"
    for folder in (whole, spread):
        world.build(folder, exact=True)
        (folder / "out").mkdir()
    launch("float64-adapter", whole, 1)
    launch("fsdp-adapter", spread, 2)
    for name in ("model/adapter_model.safetensors", "value/model.safetensors"):
        ours, theirs = load_file(whole / "out" / name), load_file(spread / "out" / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-7), key


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["stem", "adapter"])
def test_what_is_shared_learns_the_same_in_two_processes(tmp_path: Path, mode: str) -> None:
    """In float32: sums over processes round otherwise, and Adam's first steps magnify that."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):
        world.build(folder, layers=2)
        (folder / "out").mkdir()
        launch(mode, folder, processes)
    for update in range(1, world.config().num_updates + 1):
        ours, theirs = (
            rollouts.read(rollouts.path_of(folder / "out" / "rollouts", update))
            for folder in (one, two)
        )
        assert ours.trajectory.responses == theirs.trajectory.responses
        assert torch.allclose(ours.advantages, theirs.advantages, rtol=1e-3, atol=1e-4)
    model = "adapter_model" if mode == "adapter" else "model"
    for name in (f"model/{model}.safetensors", "value/model.safetensors"):
        weights = [load_file(folder / "out" / name) for folder in (one, two)]
        assert weights[0].keys() == weights[1].keys()
        for key in weights[0]:
            assert torch.allclose(weights[0][key], weights[1][key], rtol=0, atol=1e-3), key
