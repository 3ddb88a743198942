"""Two and three gloo processes compute what one computes."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import forked
import pytest
import torch
from places import process_environment
from safetensors.torch import load_file
from worlds import ppo as world
from worlds import ppo_process

from plumbrule.errors import ConfigError
from plumbrule.lm.loading import load_policy
from plumbrule.store.checkpoints import newest
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo import models as ppo_models
from rlhf.ppo import stage as ppo
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.state import load_state


def launch(mode: str, folder: Path, processes: int, pause_at: int = 0) -> None:
    """Run `worlds.ppo_process <mode> <folder>` in that many processes, as torchrun would.

    They are killed once they have logged update `pause_at`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        environment = process_environment(
            OMP_NUM_THREADS="1",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            WORLD_SIZE=str(processes),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        words = ["-m", "worlds.ppo_process", mode, str(folder), str(pause_at)]
        running.append(forked.Forked(words, environment))
    if pause_at:
        assert running[0].stdout.readline() == "paused\n"
        for process in running:
            process.kill()
            process.communicate()
        return
    try:
        for process in running:
            _, error = process.communicate(timeout=600)
            assert process.returncode == 0, error[-3000:]
    finally:
        for process in running:
            process.kill()


def run_alone(folder: Path, **settings: object) -> None:
    """Run the stage in float64 by this process, as `launch("float64", ...)` does by others."""
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ppo_models, "load_policy", partial(load_policy, dtype=torch.float64))
        config = world.config(**settings)  # type: ignore[arg-type]
        ppo.run(config, world.inputs_in(folder), world.runtime(), out, FileTracker(out))


def files_in(out: Path) -> set[str]:
    """Return the files that a run leaves.

    A worker prepares its machine, so its checkpoints say which it was; that file is left out.
    """
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    return {name for name in files if Path(name).name != "machine.json"}


def assert_same_weights(ours: Path, theirs: Path, atol: float, policy: str = "model") -> None:
    """Compare what two runs published: the policy's file of that name, and the value model's."""
    for name in (f"model/{policy}.safetensors", "value/model.safetensors"):
        one, other = load_file(ours / name), load_file(theirs / name)
        assert one.keys() == other.keys()
        for key in one:
            assert torch.allclose(one[key], other[key], rtol=0, atol=atol), key


def build_each(*folders: Path, **world_of: object) -> None:
    """Make the same world, and room for a run's `out`, in each folder."""
    for folder in folders:
        world.build(folder, **world_of)  # type: ignore[arg-type]
        (folder / "out").mkdir()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one and what two processes leave behind: `weights.pt` and a whole run's `out`.

    One process alone also leaves the weights of three, in a folder `three`.
    """
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    build_each(one, two)
    launch("both", two, 2)
    (three := one / "three").mkdir()
    launch("updates", three, 3)
    ppo_process.twenty_updates(one)
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
        [parquet.read(path) for path in sorted((out / "rollouts").iterdir())] for out in outs
    )
    assert len(one) == len(two) == world.config().num_updates
    for alone, shared in zip(one, two, strict=True):
        assert alone.trajectory.responses == shared.trajectory.responses
        assert alone.trajectory.texts == shared.trajectory.texts
        for name in Rollout._fields[1:]:
            if name not in ("terms", "teacher_logprobs"):  # there is no teacher
                pair = getattr(alone, name), getattr(shared, name)
                assert torch.allclose(*pair, rtol=1e-3, atol=1e-4), name
    assert files_in(outs[0]) == files_in(outs[1])


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole run in float64 by one process and by two."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("alone", "two")}
    build_each(*folders.values(), exact=True)
    run_alone(folders["alone"])
    launch("float64", folders["two"], 2)
    return folders


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by three that hold a third of the weights each.

    It also leaves `weights.pt`, of twenty updates on recorded rollouts.
    """
    folder = tmp_path_factory.mktemp("spread")
    build_each(folder, exact=True)
    launch("fsdp", folder, 3)
    return folder


@pytest.mark.detail(49)
@pytest.mark.parametrize("how", ["two", pytest.param("spread", marks=pytest.mark.slow)])
def test_own_rollouts_in_float64_are_the_same_tokens_and_end_with_the_same_weights(
    exact: dict[str, Path], how: str, request: pytest.FixtureRequest
) -> None:
    """Weights to 1e-8: sums over processes round at 1e-16, and Adam divides by gradients that may
    be that much smaller than its epsilon (1e-5) for 24 steps. Advantages are whitened, which
    divides by their spread, hence 1e-6. What is published of weights that were spread is whole.
    """
    folder = exact[how] if how in exact else request.getfixturevalue(how)
    alone, several = exact["alone"] / "out", folder / "out"
    paths = sorted((alone / "rollouts").iterdir())
    assert len(paths) == world.config().num_updates
    for path in paths:
        one, other = parquet.read(path), parquet.read(several / "rollouts" / path.name)
        assert one.trajectory.responses == other.trajectory.responses
        assert torch.allclose(one.advantages, other.advantages, rtol=0, atol=1e-6)
    assert_same_weights(alone, several, atol=1e-8)
    before = load_file(exact["alone"] / "sft" / "model" / "model.safetensors")
    after = load_file(alone / "model/model.safetensors")
    assert max(float((after[key] - before[key]).abs().max()) for key in after) > 1e-3
    assert files_in(alone) == files_in(several)


@pytest.mark.detail(63)
@pytest.mark.detail(64)
@pytest.mark.parametrize("mode", ["float64", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_batches_that_are_drawn_ahead_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, mode: str
) -> None:
    """One process and three, of which some have no row of a small draw; in float64, to 1e-8."""
    one, three = tmp_path / "one", tmp_path / "three"
    build_each(one, three, exact=True)
    launch(f"{mode}-ahead", three, 3)
    run_alone(one, **world.DRAWN_AHEAD)
    config, out = world.config(**world.DRAWN_AHEAD), one / "out"
    logs = [read_metrics(folder / "out") for folder in (one, three)]
    assert len(logs[0]) == config.num_updates
    sizes: set[float] = set()
    for ours, theirs in zip(*logs, strict=True):
        counted = {name for name in ours if name.startswith("rollout/")}
        assert len(counted) == 8
        assert {n: ours[n] for n in counted} == {n: theirs[n] for n in counted}
        sizes.add(ours["rollout/draws"])
    assert max(sizes) == 3
    for path in sorted((out / "rollouts").iterdir()):
        alone, shared = parquet.read(path), parquet.read(three / "out" / "rollouts" / path.name)
        assert alone.trajectory.responses == shared.trajectory.responses
        assert torch.allclose(alone.terms["rm"], shared.terms["rm"])
    weights = [load_file(folder / "out" / "model/model.safetensors") for folder in (one, three)]
    for key in weights[0]:
        assert torch.allclose(weights[0][key], weights[1][key], rtol=0, atol=1e-8), key


@pytest.mark.slow
def test_weights_that_are_spread_learn_what_whole_ones_do(
    folders: tuple[Path, Path], spread: Path
) -> None:
    """Twenty updates on recorded rollouts, in float64, to 1e-9: nothing amplifies rounding here."""
    whole, parts = (
        torch.load(folder / "weights.pt", weights_only=True) for folder in (folders[0], spread)
    )
    assert torch.allclose(whole, parts, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_weights_that_are_spread_resume_and_are_averaged(tmp_path: Path) -> None:
    """Killed after update 3, with checkpoints after 2 and 4; against whole weights never killed."""
    whole, spread = tmp_path / "whole", tmp_path / "spread"
    build_each(whole, spread, exact=True)
    launch("float64-options", whole, 1)
    launch("fsdp-options", spread, 2, pause_at=3)
    assert not (spread / "out" / "model").exists()
    launch("fsdp-options", spread, 2)
    assert_same_weights(whole / "out", spread / "out", atol=1e-8)
    learner = world.learner_of(world.config())
    saved = newest(spread / "out" / "checkpoints")
    assert saved is not None
    with pytest.raises(ConfigError, match="spread over them, on cpu, and this run has 1"):
        load_state(saved[1], learner)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["adapter", "untied", "ptx", "bf16"])
def test_what_is_trained_on_weights_that_are_spread(tmp_path: Path, mode: str) -> None:
    """In float64, to 1e-7: an adapter begins with a matrix of zeros, whose first gradients are
    small beside Adam's epsilon. bf16 rounds otherwise for other passes, so there whole weights
    in two processes, which take the same passes, are held against spread ones, to 2e-4: a sum in
    another order may still round to the next of 256 (it is 5e-5; other passes give 3e-3).
    """
    whole, spread = tmp_path / "whole", tmp_path / "spread"
    build_each(whole, spread, exact=True, tied=mode != "untied")
    plain, processes, atol = ("bf16", 2, 2e-4) if mode == "bf16" else (f"float64-{mode}", 1, 1e-7)
    launch(plain, whole, processes)
    launch(f"fsdp-{mode}", spread, 2)
    policy = "adapter_model" if mode == "adapter" else "model"
    assert_same_weights(whole / "out", spread / "out", atol, policy)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["stem", "adapter"])
def test_what_is_shared_learns_the_same_in_two_processes(tmp_path: Path, mode: str) -> None:
    """In float32: sums over processes round otherwise (1e-7), and Adam's first steps, which divide
    by gradients that may be as small, are up to the learning rate (3e-3) apart: weights to 1e-3.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    build_each(one, two, layers=2)
    launch(mode, one, 1)
    launch(mode, two, 2)
    for update in range(1, world.config().num_updates + 1):
        ours, theirs = (
            parquet.read(parquet.path_of(folder / "out" / "rollouts", update))
            for folder in (one, two)
        )
        assert ours.trajectory.responses == theirs.trajectory.responses
        assert torch.allclose(ours.advantages, theirs.advantages, rtol=1e-3, atol=1e-4)
    policy = "adapter_model" if mode == "adapter" else "model"
    assert_same_weights(one / "out", two / "out", atol=1e-3, policy=policy)


def test_a_policy_that_searches_does_so_alike_in_two_processes(tmp_path: Path) -> None:
    """In float64: the same turns, calls and tokens, and weights to 1e-8, as above."""
    outs = {name: tmp_path / name for name in ("alone", "two")}
    for folder in outs.values():
        folder.mkdir()
    build_each(*outs.values(), exact=True)
    run_alone(outs["alone"], **world.SEARCHES)
    launch("float64-searches", outs["two"], 2)
    rollouts = [
        [parquet.read(path).trajectory for path in sorted((f / "out" / "rollouts").iterdir())]
        for f in outs.values()
    ]
    num_calls = 0
    for alone, two in zip(*rollouts, strict=True):
        assert alone.searching is not None
        assert alone.searching == two.searching
        assert alone.responses == two.responses
        assert torch.equal(alone.action_mask, two.action_mask)
        num_calls += sum(len(one.calls) for one in alone.searching)
    assert num_calls >= 5
    assert_same_weights(*(f / "out" for f in outs.values()), atol=1e-8)
