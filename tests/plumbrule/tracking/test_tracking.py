"""Tracking: metrics.jsonl always, a real offline W&B run, resume on our own axis."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from places import ROOT

from plumbrule.errors import ConfigError
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.config import TrackingConfig
from plumbrule.tracking.progress import Progress, clock
from plumbrule.tracking.stage_tracker import FileTracker, NullTracker
from plumbrule.tracking.trackers import TRACKERS, CommandFacts, FilesOnly, NodeFacts
from plumbrule.tracking.wandb_start import FOLDERS, check_wandb, wandb_key_is_set, wandb_mode

KEY = "0123456789" * 4
"""Of the right form, and nobody's."""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without a word of W&B, and an empty home."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


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


def command(folder: Path, **changes) -> CommandFacts:
    config = {"ppo": {"kl": {"coef": 0.05}}}
    about = CommandFacts("quickstart-1", "ppo.kl.coef=0.05", "s/1", ["quickstart"], folder, config)
    return about._replace(**changes)


def stage(folder: Path, kind: str = "ppo") -> NodeFacts:
    uses = {"policy": ("sft", "f00")}
    return NodeFacts(kind, kind, "f11", {"kl": {"coef": 0.05}}, uses, folder)


def content_of(folder: Path, last: bytes) -> bytes:
    """Return the bytes of the one W&B run in `folder` once `last` is there: W&B's own process may
    still be writing.
    """
    (run,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30.0
    while last not in run.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    return run.read_bytes()


def test_a_command_is_one_wandb_run(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    """Config, curves of a built, a resumed and a cached node, lineage, headlines and the report."""
    run = TRACKERS["wandb"](TrackingConfig(), command(tmp_path / "run"), print)
    assert run.stage(stage(tmp_path, "data")) is None
    tracker = FileTracker(tmp_path, run.stage(stage(tmp_path)))
    for update in (1, 2):
        tracker.log({"objective/kl": 1.25 * update}, update)
    resumed = FileTracker(tmp_path, run.stage(stage(tmp_path)))
    resumed.rewind(1)
    resumed.table("samples", ["prompt", "response"], [["hi", "there"]])
    resumed.finish({"objective/kl": 1.25})
    run.show("sft", [{"update": 3, "sft/train_loss": 0.625, "bad": "nan"}])
    run.published(stage(tmp_path))
    report = tmp_path / "report.html"
    report.write_text("<p>the answer</p>")
    run.finish({"metrics": {"ppo/gold_gain": 0.75}, "headline": ["ppo/gold_gain"]}, report)

    content = content_of(tmp_path / "run", b"ppo/gold_gain")
    for piece in (
        b"ppo.kl.coef=0.05", b"s/1", b"quickstart", b"ppo/objective/kl", b"ppo/update",
        b"sft/sft/train_loss", b"0.625", b"ppo/samples", b"ppo-f11", b"sft-f00", b"0.75",
    ):  # fmt: skip
        assert piece in content, piece
    assert b'"coef"' in content
    (page,) = (tmp_path / "run").glob("wandb/offline-run-*/files/media/html/report*.html")
    assert "the answer" in page.read_text()
    assert read_metrics(tmp_path) == [{"update": 1, "objective/kl": 1.25}]


def test_nodes_may_have_runs_of_their_own_and_keep_them(
    tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    tracking = TrackingConfig(stage_runs=True)
    for number in range(2):
        about = command(tmp_path / f"run{number}", id=f"quickstart-{number}")
        run = TRACKERS["wandb"](tracking, about, print)
        mirror = run.stage(stage(tmp_path))
        mirror.log({"objective/kl": 1.25}, 1)
        mirror.finish({"objective/kl": 1.25}, failed=number == 0)
        run.finish(None, None, failed=number == 0)
    names = {path.stem for n in range(2) for path in tmp_path.glob(f"run{n}/wandb/*/run-*.wandb")}
    (own,) = (name for name in names if "f11" in name)  # both commands wrote to the same
    assert names == {own, "run-quickstart-0", "run-quickstart-1"}


def test_a_runs_name_may_hold_what_wandb_refuses_in_an_id(
    tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    run = TRACKERS["wandb"](TrackingConfig(), command(tmp_path / "run", id="a#b;c,d%e'f"), print)
    assert run.run_id == "a-b-c-d-e-f"
    run.finish(None, None)


def test_a_nodes_run_that_cannot_start_leaves_the_commands_own(
    tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    """Online, W&B goes away between the command's run and its node's."""
    import wandb

    from plumbrule.tracking import wandb_start

    run = TRACKERS["wandb"](TrackingConfig(stage_runs=True), command(tmp_path / "run"), print)
    init = wandb.init

    def refuses(mode: str, **more: object) -> object:
        if mode == "online":
            raise wandb.errors.CommError("gone")
        return init(mode=mode, **more)

    bare.setattr(wandb, "init", refuses)
    bare.setattr(wandb_start, "_gave_up", [])
    bare.setattr(wandb_start, "wandb_mode", lambda: "online")
    mirror = run.stage(stage(tmp_path))
    mirror.log({"objective/kl": 1.25}, 1)
    mirror.finish({})
    run.finish({"metrics": {"ppo/gold_gain": 0.75}, "headline": []}, None)
    paths = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    assert sorted("f11" in path.name for path in paths) == [False, True]


def test_a_plug_in_tracks_in_its_own_way(tmp_path: Path) -> None:
    told = []

    class Mine(FilesOnly):
        def finish(self, record, report, failed=False):
            told.append((record, failed))

    try:
        TRACKERS.register("mine")(lambda tracking, about, say: Mine())
        tracker = TRACKERS["mine"](TrackingConfig(name="mine"), command(tmp_path), print)
        tracker.finish({"metrics": {}}, None)
        assert told == [({"metrics": {}}, False)]
    finally:
        del TRACKERS._options["mine"]
    with pytest.raises(ConfigError, match=r"tracking\.name \(=mine\) must be one of jsonl, none, "):
        TrackingConfig(name="mine")


@pytest.mark.parametrize(
    "name", ["a/b", "a#b", "a?b", "a%b", "a:b", "a\\b", "x" * 129, " ", "a\nb"]
)
def test_a_project_that_wandb_would_refuse(name: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.project"):
        TrackingConfig(project=name)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"WANDB_MODE": "onlin"},
            r"WANDB_MODE \(=onlin\) must be one of disabled, dryrun, offline",
        ),
        ({"WANDB_MODE": "online"}, r"WANDB_MODE \(=online\) must be left out without a key"),
        ({"WANDB_MODE": "run"}, "without a key"),
        ({"WANDB_DATA_DIR": "/dev/null/x"}, r"WANDB_DATA_DIR \(=/dev/null/x\) must be a folder"),
        ({"WANDB_CACHE_DIR": "/dev/null/x"}, "WANDB_CACHE_DIR"),
        ({"WANDB_INIT_TIMEOUT": "soon"}, "settings of W&B"),
        ({"WANDB_BASE_URL": "no address"}, "settings of W&B"),
        ({"WANDB_API_KEY": f" {KEY} "}, "settings of W&B"),
    ],
)
def test_what_would_stop_wandb_is_one_line(
    environment: dict[str, str], says: str, bare: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        bare.setenv(name, value)
    with pytest.raises(ConfigError, match=says) as caught:
        check_wandb(TrackingConfig())
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    check_wandb(TrackingConfig(name="jsonl"))


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": KEY}, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_the_environments_mode_is_respected(
    environment: dict[str, str], mode: str, bare: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        bare.setenv(name, value)
    assert wandb_mode() == mode
    check_wandb(TrackingConfig())


def test_a_home_that_can_not_be_written_is_no_reason_against_wandb(
    tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    bare.setenv("HOME", "/dev/null")
    bare.setattr("tempfile.tempdir", str(tmp_path))
    for variable in FOLDERS:
        bare.setenv(variable, "")  # so that it is put back afterwards
        bare.delenv(variable)
    check_wandb(TrackingConfig())
    folders = [Path(os.environ[variable]) for variable in FOLDERS]
    assert all(folder.is_relative_to(tmp_path) and folder.is_dir() for folder in folders)
    assert len(set(folders)) == 3


def test_a_key_is_that_of_the_server_in_use(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "keys"
    netrc.write_text(f"machine wandb.example\n login user\n password {KEY}\n")
    netrc.chmod(0o600)
    bare.setenv("NETRC", str(netrc))
    assert not wandb_key_is_set()
    bare.setenv("WANDB_BASE_URL", "https://wandb.example/team")
    assert wandb_key_is_set()


OFFLINE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from plumbrule.tracking.trackers import TRACKERS
from plumbrule.tracking.config import TrackingConfig
from plumbrule.tracking.trackers import CommandFacts
from plumbrule.tracking.wandb_start import check_wandb
out = Path(sys.argv[1])
check_wandb(TrackingConfig())
for number in range(2):
    about = CommandFacts(f"run{number}", "r", "g", [], out / "run", {})
    run = TRACKERS["wandb"](TrackingConfig(), about, lambda line: print(line, file=sys.stderr))
    run.show("ppo", [{"update": 1, "objective/kl": 1.5}])
    run.finish({"metrics": {"objective/kl": 1.5}, "headline": []}, None)
"""


def test_a_key_without_a_network_goes_on_offline(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("WANDB_API_KEY", KEY)
    bare.setenv("WANDB_BASE_URL", "http://user:secret@127.0.0.1:9")  # nothing listens there
    bare.setenv("WANDB_INIT_TIMEOUT", "2")
    bare.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-c", OFFLINE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B can't be reached") == 1  # the second asks nobody again
    assert "wandb sync" in done.stderr
    for number in range(2):
        (run,) = (tmp_path / "run" / "wandb").glob(
            f"offline-run-*-run{number}/run-run{number}.wandb"
        )
        assert b"objective/kl" in run.read_bytes()
    written = [done.stdout.encode(), done.stderr.encode()]
    written += [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(KEY.encode() in text for text in written)
    assert not any(b"user:secret" in text for text in written[:2])


def test_progress_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, readings = io.StringIO(), iter([0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(
        "plumbrule.tracking.progress.time", SimpleNamespace(monotonic=readings.__next__)
    )
    with Progress(100, "sft", "steps", stream) as line:
        line.skip(40)
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
