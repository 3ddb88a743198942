"""Claims: one builder, honest takeovers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plumbrule.errors import Terminated, TrainingError
from plumbrule.store import claims
from plumbrule.store.artifacts import Store
from plumbrule.store.manifests import Manifest

HOLDER = """
import sys, time
from pathlib import Path
from plumbrule.store import claims
claim = claims.acquire(Path(sys.argv[1]), "other")
with claim:
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_builder_sees_who_holds_the_claim(tmp_path: Path) -> None:
    with claims.acquire(tmp_path, "first") as claim:
        owner = claims.acquire(tmp_path, "second")
        assert isinstance(owner, claims.Owner)
        assert owner.run == "first"
        assert owner.pid == os.getpid()
        claim.check()
    assert not (tmp_path / claims.NAME).exists()
    assert isinstance(claims.acquire(tmp_path, "third"), claims.Claim)


@pytest.mark.parametrize("waited_for", [True, False])
def test_the_claim_of_a_killed_process_is_taken_over_at_once(
    tmp_path: Path, waited_for: bool
) -> None:
    """Also where its parent does not wait for it, as in a container without an init process."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    owner = claims.acquire(tmp_path, "me")
    assert isinstance(owner, claims.Owner)
    assert owner.pid == holder.pid
    holder.send_signal(signal.SIGKILL)
    if waited_for:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has ended and stays
        assert claims.born(holder.pid) == "gone"
    assert isinstance(claims.acquire(tmp_path, "me"), claims.Claim)
    holder.wait()


def other_host(folder: Path, age_seconds: float) -> None:
    """Leave the claim of another machine, last touched `age_seconds` ago."""
    owner = {"run": "far", "host": "elsewhere", "pid": 1, "born": "1", "token": "t"}
    path = folder / claims.NAME
    path.write_text(json.dumps(owner))
    then = time.time() - age_seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize(("age", "taken"), [(10, False), (119, False), (130, True)])
def test_a_claim_of_another_machine_is_taken_when_silent(
    tmp_path: Path, age: float, taken: bool
) -> None:
    other_host(tmp_path, age)
    assert isinstance(claims.acquire(tmp_path, "me"), claims.Claim) is taken


def test_an_owner_whose_claim_is_gone_stops(tmp_path: Path) -> None:
    with claims.acquire(tmp_path, "slow") as claim:
        other_host(tmp_path, 0)
        with pytest.raises(TrainingError, match="taken over by run far"):
            claim.check()
    assert (tmp_path / claims.NAME).exists()  # the other's claim is not removed


def test_a_stale_claim_replaced_meanwhile_is_put_back(tmp_path: Path) -> None:
    other_host(tmp_path, 0)
    claims._remove(tmp_path / claims.NAME, judged=None)
    owner = claims.read_owner(tmp_path / claims.NAME)
    assert owner is not None
    assert owner.run == "far"


def test_the_owner_touches_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    with claims.acquire(tmp_path, "alive"):
        path = tmp_path / claims.NAME
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1


LATER = {"run": "new", "host": {"name": "here", "boot": 1}, "token": "t", "lease_seconds": 60}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"3",
        b'{"run": 1, "host": "here", "pid": "x", "born": "1", "token": "t"}',
        b'{"run": "half',
        json.dumps(LATER).encode(),
    ],
)
def test_a_damaged_claim_lives_as_long_as_it_beats(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / claims.NAME
    path.write_bytes(content)
    owner = claims.acquire(tmp_path, "me")
    assert isinstance(owner, claims.Owner)
    assert owner.run == "unknown"
    then = time.time() - claims.DAMAGED_BEATS * claims.BEAT_SECONDS - 1
    os.utime(path, (then, then))
    assert isinstance(claims.acquire(tmp_path, "me"), claims.Claim)


@pytest.mark.parametrize(("age", "taken"), [(10, False), (110, False), (130, True)])
def test_a_claim_of_a_later_version_lives_as_long_as_it_beats(
    tmp_path: Path, age: float, taken: bool
) -> None:
    """Whether its process lives can't be told from fields that may mean something else there."""
    path = tmp_path / claims.NAME
    with claims.acquire(tmp_path / "another", "me") as other:
        host = json.loads(other.path.read_text())["host"]
    later = {"run": "new", "host": host, "pid": 1, "born": "1", "token": "t", "uid": 7}
    path.write_text(json.dumps(later))
    os.utime(path, (time.time() - age, time.time() - age))
    found = claims.acquire(tmp_path, "me")
    assert isinstance(found, claims.Claim) is taken
    assert taken or str(found).startswith("run new")


def test_a_claim_that_was_removed_names_who_published(tmp_path: Path) -> None:
    """Or says that it was removed: never that nobody took it over."""
    store = Store(tmp_path)
    folder = store.folder("sft", "a1")
    with claims.acquire(claims.build_folder(folder), "slow") as claim:
        claim.path.unlink()
        with pytest.raises(TrainingError, match="of this process was removed while it was silent"):
            claim.check()
        folder.mkdir()
        store.publish(Manifest("sft", "sft", "a1", {}, {}, built_by="run fast/1 (process 7 on x)"))
        with pytest.raises(TrainingError, match=r"taken over by run fast/1 \(process 7 on x\)"):
            claim.check()


def test_what_interrupts_an_owner_says_who_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beat sends Ctrl-C's signal; it must not look as if someone had pressed it."""
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none

    def build() -> None:
        with claims.acquire(tmp_path, "slow"):
            other_host(tmp_path, 0)
            time.sleep(30)

    try:
        with pytest.raises(TrainingError, match="taken over by run far"):
            build()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / claims.NAME).exists()


@pytest.mark.parametrize("sent", [KeyboardInterrupt, Terminated])
def test_a_stop_that_comes_while_a_claim_is_released_stops(
    tmp_path: Path, sent: type[KeyboardInterrupt]
) -> None:
    class Ending:
        def __enter__(self) -> None:
            claim._stop.set()
            raise sent

        def __exit__(self, *a: object) -> None: ...

    with pytest.raises(sent), claims.acquire(tmp_path, "me") as claim:
        claim._ending = Ending()
    assert not (tmp_path / claims.NAME).exists()


def test_a_stores_seconds_are_set_by_the_environment() -> None:
    code = "from plumbrule.store import claims; print(claims.SILENT_SECONDS, claims.BEAT_SECONDS)"
    seconds = {"PLUMBRULE_SILENT_SECONDS": "1.5", "PLUMBRULE_BEAT_SECONDS": "0.25"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **seconds}, capture_output=True, text=True
    )
    assert done.stdout == "1.5 0.25\n", done.stderr
