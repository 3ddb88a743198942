"""TensorBoard and trackio take each node's curves and the headline; missing, they are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbrule.errors import ConfigError
from plumbrule.tracking import config as tracking_config
from plumbrule.tracking.config import TrackingConfig
from plumbrule.tracking.trackers import TRACKERS, CommandFacts, FilesOnly, NodeFacts

RECORD = {"metrics": {"ppo/gold_gain": 0.75, "sft/loss": 2.0}, "headline": ["ppo/gold_gain"]}


def track(name: str, folder: Path) -> None:
    """Track a command of two nodes, one of them cached."""
    about = CommandFacts("run-1", "ppo.kl.coef=0.1", "g", [], folder, {"ppo": {"lam": 0.95}})
    tracker = TRACKERS[name](TrackingConfig(name=name), about, print)
    assert tracker.stage(NodeFacts("prompts", "data", "f", {}, {}, folder)) is None
    mirror = tracker.stage(NodeFacts("ppo", "ppo", "f", {}, {}, folder))
    assert mirror is not None
    for update in (1, 2):
        mirror.log({"objective/kl": 0.5 * update, "loss/x": float("nan"), "text": "a"}, update)
    mirror.finish({})
    tracker.show("sft", [{"update": 3, "loss": 1.5}])
    tracker.finish(RECORD, None)


def test_tensorboard_gets_the_curves_of_every_node(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    track("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    values = {
        tag: [(e.step, round(float(e.tensor_proto.float_val[0]), 6)) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }
    assert values == {
        "ppo/objective/kl": [(1, 0.5), (2, 1.0)],
        "sft/loss": [(3, 1.5)],
        "ppo/gold_gain": [(0, 0.75)],
    }


def test_trackio_gets_the_same_in_its_local_database(tmp_path: Path) -> None:
    """In a process of its own: trackio reads where its database lies when it is imported."""
    pytest.importorskip("trackio", reason="trackio is not installed")
    code = (
        "import json, pathlib, sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_scalar_trackers import track\n"
        "track('trackio', pathlib.Path(sys.argv[1]))\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "print(json.dumps(SQLiteStorage.get_logs('plumbrule', 'run-1')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(next(s for s in done.stdout.splitlines() if s.startswith("[")))
    told = [
        {k: v for k, v in row.items() if k not in ("timestamp", "step")} | {"step": row["step"]}
        for row in rows
    ]
    assert told == [
        {"ppo/objective/kl": 0.5, "step": 1},
        {"ppo/objective/kl": 1.0, "step": 2},
        {"sft/loss": 1.5, "step": 3},
        {"ppo/gold_gain": 0.75, "step": 0},
    ]


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_package_that_is_missing_is_said_before_anything_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_config, "find_spec", lambda name: None)
    message = rf"tracking\.name \(={name}\) must have the package {name}.*plumbrule\[{name}\]"
    with pytest.raises(ConfigError, match=message):
        TrackingConfig(name=name)
    assert TrackingConfig().name == "wandb"  # it needs none of them


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_pillow_is_named_where_only_that_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(module: str) -> object:
        if module.startswith("PIL"):
            raise ModuleNotFoundError("No module named 'PIL'")
        return object()

    monkeypatch.setattr(tracking_config, "find_spec", find_spec)
    message = rf"tracking\.name \(={name}\) must have the package pillow, which is not"
    with pytest.raises(ConfigError, match=message):
        TrackingConfig(name=name)


def test_none_tracks_nothing(tmp_path: Path) -> None:
    track_nothing = TRACKERS["none"](TrackingConfig(name="none"), None, print)  # type: ignore
    assert isinstance(track_nothing, FilesOnly)
