"""A run that was stopped anywhere ends with the very bytes of one that was not."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from worlds import ppo as world
from worlds.trackers import Stopped, StopsAfter

from plumbrule.errors import ConfigError
from plumbrule.store import checkpoints
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo import stage as ppo
from rlhf.ppo.config import KLConfig, PPOConfig, PTXConfig
from rlhf.ppo.rollout import parquet

TIMED = ("metrics.jsonl", "tables.json")
"""Files that hold times."""


ALL_OPTIONS = world.config(
    adam="tf",
    ema_decay=0.9,
    score_at="after",
    value_warmup_updates=1,
    importance_cap=2.0,
    kl=KLConfig(coef=0.02, target=0.01, horizon=64),
    ptx=PTXConfig(coef=0.5, batch_size=4),
)


def start(folder: Path) -> Path:
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    world.build(folder)
    (folder / "out").mkdir()
    return folder


def go_on(
    folder: Path, tracker: FileTracker | None = None, config: PPOConfig | None = None
) -> Mapping[str, float]:
    out, config = folder / "out", config or world.config()
    return ppo.run(
        config, world.inputs_in(folder), world.runtime(), out, tracker or FileTracker(out)
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file that is published, but for the metrics, which hold times."""
    out = folder / "out"
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "checkpoints" not in path.parts and path.name not in TIMED
    }


def timeless(folder: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in read_metrics(folder / "out")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, float]]:
    folder = start(tmp_path_factory.mktemp("whole"))
    return folder, go_on(folder)


def same_run(
    folder: Path, headlines: Mapping[str, float], whole: tuple[Path, Mapping[str, float]]
) -> None:
    untimed = {k: v for k, v in headlines.items() if k != "ppo/episodes_per_second"}
    assert untimed == {k: v for k, v in whole[1].items() if k != "ppo/episodes_per_second"}
    assert timeless(folder) == timeless(whole[0])
    mine, expected = contents(folder), contents(whole[0])
    assert mine.keys() == expected.keys()
    assert [name for name in mine if mine[name] != expected[name]] == []


@pytest.mark.parametrize("updates", [[1], [2], [3], [6], [2, 3, 5]])
def test_stopped_after_any_update(
    updates: list[int], tmp_path: Path, whole: tuple[Path, Mapping[str, float]]
) -> None:
    folder = start(tmp_path)
    for update in updates:
        with pytest.raises(Stopped):
            go_on(folder, StopsAfter(folder / "out", update))
    same_run(folder, go_on(folder), whole)


@pytest.mark.detail(19)
@pytest.mark.detail(49)
def test_stopped_with_every_option_that_has_a_state(tmp_path: Path) -> None:
    """Coefficient, average, TensorFlow's moments, warm-up, demonstrations: all go on."""
    once, again = start(tmp_path / "once"), start(tmp_path / "again")
    headlines = go_on(once, config=ALL_OPTIONS)
    for update in (1, 3, 4):
        with pytest.raises(Stopped):
            go_on(again, StopsAfter(again / "out", update), ALL_OPTIONS)
    coefs = [row["objective/kl_coef"] for row in read_metrics(once / "out")]
    assert len(set(coefs)) == 6
    same_run(again, go_on(again, config=ALL_OPTIONS), (once, headlines))


AHEAD = {
    "values": replace(ALL_OPTIONS, staleness=1),
    "draws": world.config(**world.DRAWN_AHEAD),
}


@pytest.mark.detail(63)
@pytest.mark.detail(64)
@pytest.mark.parametrize("name", AHEAD)
def test_stopped_while_the_next_batch_is_drawn_already(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update, and between a draw and the learning of the update before it."""
    config = AHEAD[name]
    once, again = start(tmp_path / "once"), start(tmp_path / "again")
    headlines = go_on(once, config=config)
    step = ppo.ppo_step

    def stops(learner: Any, rollout: Any, update: int, *others: Any) -> Any:
        if update == 4:
            raise Stopped
        return step(learner, rollout, update, *others)

    with pytest.raises(Stopped):
        go_on(again, StopsAfter(again / "out", 1), config)
    with monkeypatch.context() as patched:
        patched.setattr(ppo, "ppo_step", stops)
        with pytest.raises(Stopped):
            go_on(again, config=config)
    with pytest.raises(Stopped):
        go_on(again, StopsAfter(again / "out", 5), config)
    same_run(again, go_on(again, config=config), (once, headlines))
    newest = checkpoints.newest(once / "out" / "checkpoints")
    assert newest is not None
    assert not (newest[1] / "next_batch.json").exists()  # nothing is drawn for no update


def test_another_topology_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start(tmp_path)
    with pytest.raises(Stopped):
        go_on(folder, StopsAfter(folder / "out", 3))
    state = folder / "out" / "checkpoints" / "checkpoint-2" / "state.json"
    state.write_text(state.read_text().replace('"processes": 1', '"processes": 3'))
    checkpoints.seal(state.parent)
    message = "written by 3 processes on cpu, and this run has 1 process on cpu"
    with pytest.raises(ConfigError, match=message):
        go_on(folder)


def test_stopped_while_a_checkpoint_is_written(
    tmp_path: Path, whole: tuple[Path, Mapping[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is left half full, as a killed process leaves it, and counts for nothing."""
    folder = start(tmp_path)

    def half(path: Path) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "seal", half)
        with pytest.raises(Stopped):
            go_on(folder)
    partial = folder / "out" / "checkpoints" / "checkpoint-4"
    partial.mkdir(parents=True)
    (partial / "policy.safetensors").write_bytes(b"half")
    same_run(folder, go_on(folder), whole)


def test_stopped_before_publication(
    tmp_path: Path, whole: tuple[Path, Mapping[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All updates are done: nothing is trained again, and the metrics are still known."""
    folder = start(tmp_path)

    def fails(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(ppo, "publish", fails)
        with pytest.raises(Stopped):
            go_on(folder)
    with monkeypatch.context() as patched:
        patched.setattr(ppo, "ppo_step", fails)
        headlines = go_on(folder)
    same_run(folder, headlines, whole)


def test_rollouts_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    """Also one that a killed process left half-written."""
    names = ["update-00001.parquet", "update-00002.parquet", "update-00003.parquet"]
    for name in (*names, "update-00004.partial"):
        (tmp_path / name).touch()
    parquet.remove_after(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[:2]
    parquet.remove_after(tmp_path / "absent", 0)


@pytest.mark.parametrize("mode", ["run", "ahead", "searches"])
def test_killed_process(mode: str, tmp_path: Path, whole: tuple[Path, Mapping[str, float]]) -> None:
    """SIGKILL between an update and its checkpoint, in a process of its own."""
    folder, config = start(tmp_path / "killed"), None
    if mode != "run":
        config = AHEAD["draws"] if mode == "ahead" else world.config(**world.SEARCHES)
        whole = start(tmp_path / "whole"), {}
        whole = whole[0], go_on(whole[0], config=config)
    words = ["-m", "worlds.ppo_process", mode, str(folder), "4"]
    with forked.Forked(words) as process:
        assert "paused" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    newest = checkpoints.newest(folder / "out" / "checkpoints")
    assert newest is not None
    assert newest[0] == 2
    assert len(timeless(folder)) == 4
    same_run(folder, go_on(folder, config=config), whole)
