"""A checkpoint counts only when it is whole, and a failed one costs nothing that was there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from plumbrule.errors import ArtifactError
from plumbrule.store import attempts, checkpoints
from plumbrule.store.checkpoints import MARK, is_complete, is_whole, newest, prune, save, seal
from plumbrule.tracking.stage_tracker import FileTracker


def fill(text: str):
    """Return a writer of one file in a folder below the checkpoint."""

    def write(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "state.txt").write_text(text)

    return write


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that no stage has prepared, whatever ran in it before."""
    monkeypatch.setattr(checkpoints, "MACHINE", {})


def test_newest_is_by_number_not_by_name(tmp_path):
    for step in (9, 100, 20):
        save(tmp_path, step, fill(str(step)), keep=5)
    step, path = newest(tmp_path)
    assert step == 100
    assert (path / "deep" / "state.txt").read_text() == "100"


def test_no_folder_and_strangers_are_no_checkpoint(tmp_path):
    assert newest(tmp_path / "absent") is None
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-7-old").mkdir()
    (tmp_path / "notes.txt").touch()
    assert newest(tmp_path) is None


def test_unsealed_is_ignored(tmp_path):
    save(tmp_path, 1, fill("one"))
    (tmp_path / "checkpoint-2").mkdir()
    fill("two")(tmp_path / "checkpoint-2")
    assert newest(tmp_path)[0] == 1
    seal(tmp_path / "checkpoint-2")
    assert newest(tmp_path)[0] == 2


@pytest.mark.parametrize("damage", ["short", "absent", "torn mark"])
def test_damaged_is_ignored(tmp_path, damage):
    save(tmp_path, 1, fill("one"))
    folder = save(tmp_path, 2, fill("two"))
    assert newest(tmp_path)[0] == 2
    if damage == "short":
        (folder / "deep" / "state.txt").write_text("tw")
    elif damage == "absent":
        (folder / "deep" / "state.txt").unlink()
    else:
        (folder / MARK).write_text((folder / MARK).read_text()[:-3])
    assert not is_complete(folder)
    assert newest(tmp_path)[0] == 1


def test_mark_lists_every_file_with_its_size_and_digest(tmp_path):
    folder = save(tmp_path, 3, fill("four"))
    marked = json.loads((folder / MARK).read_text())
    assert {name: about["size"] for name, about in marked.items()} == {"deep/state.txt": 4}
    assert is_whole(folder)
    (folder / "deep" / "state.txt").write_text("foux")
    assert is_complete(folder)
    assert not is_whole(folder)
    (folder / MARK).write_text('{"deep/state.txt": 4}')  # as earlier versions wrote it
    assert is_whole(folder)


def flip(path, place):
    """Change one bit, and put the times back."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


LOGGED = "metrics.jsonl", "rollouts/update-00001.parquet", "rollouts/update-00002.parquet"


@pytest.fixture
def logged(tmp_path):
    """An attempt at `a1` with two checkpoints, and rows of metrics and a rollout after them."""
    artifact = tmp_path / "artifacts" / "ppo" / "a1"
    with attempts.claim(artifact, "first") as claim:
        out = attempts.begin(artifact, claim)
        (out / "rollouts").mkdir()
        for update in (1, 2, 3):
            (out / f"rollouts/update-0000{update}.parquet").write_text(f"rollout {update}")
            with open(out / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"update": update, "objective/kl": update / 7}) + "\n")
            if update < 3:
                save(out / "checkpoints", update, fill("weights"))
    return artifact, out


@pytest.mark.parametrize("name", LOGGED)
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_log_that_changed_since_its_checkpoint_is_not_resumed(logged, name, how):
    artifact, out = logged
    if how == "flip":
        flip(out / name, 3)
    elif how == "cut":
        os.truncate(out / name, 5)
    else:
        (out / name).unlink()
    is_refused = how != "remove" or name == "metrics.jsonl"
    for _ in range(2):  # the first try leaves everything where it was
        with attempts.claim(artifact, "second") as claim:
            if not is_refused:
                attempts.begin(artifact, claim)
                break
            with pytest.raises(ArtifactError, match=rf"{out / name} must begin .* checkpoint-2 "):
                attempts.begin(artifact, claim)


def test_what_was_logged_after_the_checkpoint_may_be_anything(logged):
    artifact, out = logged
    flip(out / "metrics.jsonl", -3)
    flip(out / "rollouts/update-00003.parquet", 3)
    with attempts.claim(artifact, "second") as claim:
        again = attempts.begin(artifact, claim)
        FileTracker(again).rewind(2)
        save(again / "checkpoints", 3, fill("weights"))
    with attempts.claim(artifact, "third") as claim:
        assert newest(attempts.begin(artifact, claim) / "checkpoints")[0] == 3


def test_a_rollout_is_read_for_one_checkpoint_only(logged, monkeypatch):
    _, out = logged
    read = []
    own = checkpoints.digests
    monkeypatch.setattr(
        checkpoints, "digests", lambda path, *names: read.append(path.name) or own(path, *names)
    )
    save(out / "checkpoints", 3, fill("weights"))
    assert sorted(name for name in read if name.endswith("parquet")) == ["update-00003.parquet"]


def test_an_attempt_is_resumed_from_the_newest_checkpoint_that_is_whole(tmp_path):
    artifact = tmp_path / "artifacts" / "sft" / "a1"
    with attempts.claim(artifact, "first") as claim:
        out = attempts.begin(artifact, claim)
        (out / "metrics.jsonl").write_text("rows")
        (out / "checkpoints").mkdir()
        save(out / "checkpoints", 1, fill("one"))
        two = save(out / "checkpoints", 2, fill("two"))
        (two / "deep" / "state.txt").write_text("tvo")
    assert attempts.begun(artifact) == 2
    with attempts.claim(artifact, "second") as claim:
        again = attempts.begin(artifact, claim)
        assert newest(again / "checkpoints")[0] == 1
        assert (again / "metrics.jsonl").read_text() == "rows"
        names = {path.name for path in again.parent.iterdir() if path.is_dir()}
        assert names == {again.name}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_older_ones(tmp_path, error):
    save(tmp_path, 1, fill("one"), keep=1)

    def full(folder):
        fill("half")(folder)
        raise error

    with pytest.raises(type(error)):
        save(tmp_path, 2, full, keep=1)
    assert newest(tmp_path) == (1, tmp_path / "checkpoint-1")
    assert not (tmp_path / "checkpoint-2").exists()


def test_the_same_step_again_replaces_what_was_left(tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "rest.txt").write_text("of a killed run")
    folder = save(tmp_path, 4, fill("new"))
    assert sorted(p.name for p in folder.iterdir()) == [MARK, "deep"]


def test_prune_keeps_the_newest_complete_ones(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, fill(str(step)), keep=9)
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "report.txt").touch()
    prune(tmp_path, keep=2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["checkpoint-2", "checkpoint-3", "report.txt"]


def test_save_keeps_two_by_default(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, fill(str(step)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-5"]


KILLED = """
import os, signal, sys
from pathlib import Path
from plumbrule.store.checkpoints import save
folder = Path(sys.argv[1])
save(folder, 1, lambda path: (path / "state.txt").write_text("one"))
def write(path):
    (path / "state.txt").write_text("two")
    os.kill(os.getpid(), signal.SIGKILL)
save(folder, 2, write)
"""


def test_a_killed_process_leaves_the_older_one(tmp_path):
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ)
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoint-2" / "state.txt").exists()
    assert newest(tmp_path)[0] == 1


@pytest.mark.parametrize(
    "mark", [b"", b"\xff", b"[]", b"3", b'"x"', b'{"state": "1"}', b'{"\\u0000": 1}', b"[" * 10**5]
)
def test_a_mark_that_holds_something_else_seals_nothing(tmp_path, mark):
    save(tmp_path, 1, fill("one"))
    two = save(tmp_path, 2, fill("two"))
    (two / MARK).write_bytes(mark)
    assert not is_complete(two)
    assert newest(tmp_path)[0] == 1
