"""Tracking: metrics.jsonl always, a real offline W&B run, resume on our own axis."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path

import pytest

from plumbrule.config import TrackingConfig
from plumbrule.progress import Progress, clock
from plumbrule.tracking import FileTracker, NullTracker, WandbTracker, read_metrics


def test_rows_are_rewound_to_the_resumed_update(tmp_path: Path) -> None:
    tracker = FileTracker(tmp_path)
    for update in range(1, 5):
        tracker.log({"loss/policy_avg": update / 2}, update)
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"update": 5, "los')  # a killed process
    tracker.rewind(2)
    assert [row["update"] for row in read_metrics(tmp_path)] == [1, 2]
    tracker.log({"loss/policy_avg": 9.0}, 3)
    assert read_metrics(tmp_path)[-1] == {"update": 3, "loss/policy_avg": 9.0}


def test_numbers_that_json_lacks_are_text(tmp_path: Path) -> None:
    FileTracker(tmp_path).log({"x": math.nan, "y": math.inf}, 1)
    assert read_metrics(tmp_path) == [{"update": 1, "x": "nan", "y": "inf"}]


def test_an_offline_wandb_run_holds_metrics_config_table_and_lineage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no netrc
    tracker = WandbTracker(
        tmp_path,
        TrackingConfig(),
        node="ppo",
        kind="ppo",
        group="quickstart/1",
        run_id="abc123",
        folder=tmp_path / "run",
        config={"kl": {"coef": 0.05}},
        inputs={"policy": "sft/f00"},
    )
    tracker.log({"objective/kl": 1.25}, 1)
    tracker.table("samples", ["prompt", "response"], [["hi", "there"]])
    tracker.lineage({"policy": ("sft", "f00")}, ("ppo", "f11"))
    tracker.finish({"objective/kl": 1.25})
    runs = list((tmp_path / "run" / "wandb").glob("offline-run-*abc123/run-abc123.wandb"))
    assert len(runs) == 1
    deadline = time.monotonic() + 30.0  # W&B's own process may still be writing
    while b"sft-f00" not in runs[0].read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    content = runs[0].read_bytes()
    for piece in (b"objective/kl", b"1.25", b"quickstart/1", b"samples", b"ppo-f11", b"sft-f00"):
        assert piece in content, piece
    assert read_metrics(tmp_path) == [{"update": 1, "objective/kl": 1.25}]


def test_progress_shows_rate_and_time_left() -> None:
    stream = io.StringIO()
    with Progress(100, "sft", "steps", stream) as line:
        line.skip(40)
        line._begun -= 10.0
        line._shown -= 60.0
        line.advance(20, loss=0.5)
    shown = stream.getvalue().splitlines()
    assert "60/100 steps" in shown[0]
    assert "2 steps/s" in shown[0]  # 20 steps of this process in 10 s; the 40 before don't count
    assert "20.0 s left" in shown[0]
    assert "loss 0.5" in shown[0]


def test_clock_reads_as_people_write_it() -> None:
    assert [clock(s) for s in (3.44, 61, 3723)] == ["3.4 s", "1:01", "1:02:03"]


def test_the_null_tracker_accepts_everything() -> None:
    tracker = NullTracker()
    tracker.log({"a": 1.0}, 1)
    tracker.table("t", ["a"], [[1]])
    tracker.rewind(0)
    with tracker.progress(3, "x", "steps") as line:
        line.advance()
    assert line.done == 1


@pytest.mark.parametrize("row", [b'{"update": 3', b"\xff\xfe", b"[3]", b'{"updete": 3}', b'"3"'])
def test_a_damaged_row_of_an_unfinished_stage_ends_its_log(tmp_path: Path, row: bytes) -> None:
    """It is resumed from an earlier update, and logs the rest again."""
    tracker = FileTracker(tmp_path)
    for update in (1, 2):
        tracker.log({"x": 1.0}, update)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(row + b'\n{"update": 4}\n')
    assert [r["update"] for r in read_metrics(tmp_path)] == [1, 2]
    tracker.rewind(1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"update": 1, "x": 1.0}\n'
