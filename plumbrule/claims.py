"""Claims: who builds an artifact, agreed on through the file system alone.

A claim is `claim.json` in the artifact's folder, made with O_EXCL and touched by its owner every
few seconds. One that has been silent for two minutes, or whose process on this machine is gone, is
taken over. An owner whose claim is gone is interrupted, and looks once more before its manifest
counts. So two builders may waste work when clocks and networks are at their worst; should they have
written into one folder for a moment, sizes and hashes of the manifest tell.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbrule.errors import TrainingError

NAME = "claim.json"
SILENT_SECONDS = 120.0
BEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Owner:
    """Who holds a claim, as its file says."""

    run: str
    host: str
    pid: int
    born: str
    token: str

    def __str__(self) -> str:
        return f"run {self.run} (process {self.pid} on {self.host.split('/')[0]})"


class Claim:
    """A held claim; use as a context manager around the building of an artifact."""

    def __init__(self, folder: Path, owner: Owner):
        self.path, self.owner = folder / NAME, owner
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="claim")

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop.set()
        self._thread.join()
        now = read_owner(self.path)
        if now is not None and now.token == self.owner.token:  # never another's, half-written
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise TrainingError if someone else has taken the claim."""
        if self._lost.is_set() or not self._is_mine():
            now = read_owner(self.path)
            raise TrainingError(
                f"the claim {self.path} was taken over by {now or 'nobody'} while this process was "
                "silent; its work is left unpublished. Run the same command again."
            )

    def _is_mine(self) -> bool:
        """Return False only where the claim is known to be gone or another's."""
        if not self.path.exists():
            return False
        now = read_owner(self.path)
        return now is None or now.token == self.owner.token

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            if not self._is_mine():
                self._lost.set()
                if not self._stop.is_set():
                    _thread.interrupt_main()
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)


def acquire(folder: Path, run: str) -> Claim | Owner:
    """Return the claim on `folder` for `run`, or the living owner who has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    while True:
        me = Owner(run, _host(), os.getpid(), born(os.getpid()), uuid.uuid4().hex)
        if _create(path, me):
            return Claim(folder, me)
        owner = read_owner(path)
        if owner is None:
            if _age_seconds(path) is None:
                continue
        elif _alive(owner) and (_age_seconds(path) or 0.0) < SILENT_SECONDS:
            return owner
        if owner is None and (_age_seconds(path) or 0.0) < BEAT_SECONDS:
            return Owner("unknown", "unknown", 0, "", "")
        _remove_stale(path, owner)


def read_owner(path: Path) -> Owner | None:
    """Return the owner that a claim file names; None where there is none or it is half-written."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, TypeError):
        return None


def _create(path: Path, owner: Owner) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(owner.__dict__, file)
        file.flush()
        os.fsync(file.fileno())
    return True


def _remove_stale(path: Path, judged: Owner | None) -> None:
    """Move a dead claim aside; put it back if it was replaced after it was judged."""
    aside = path.with_name(f".claim-{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if read_owner(aside) != judged:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()


def _alive(owner: Owner) -> bool:
    """Return False only where this machine knows that the owner's process is gone."""
    if owner.host != _host():
        return True
    return born(owner.pid) == owner.born


def _host() -> str:
    """Return the host's name and what tells apart machines, boots and containers of one name."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def born(pid: int) -> str:
    """Return when a process of this machine started, so that a reused pid is told apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rsplit(")", 1)[1].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    return "unknown" if not Path("/proc/self/stat").exists() else "gone"


def _age_seconds(path: Path) -> float | None:
    """Return seconds since `path` was touched, by the file system's clock; None if it is gone.

    A claim from the future was touched before that clock was set back. Its age is then how long it
    has been seen to stay as it is: its owner, alive, would touch it within seconds.
    """
    probe = path.with_name(f".clock-{uuid.uuid4().hex}")
    try:
        probe.touch()
        touched = path.stat().st_mtime
        age = probe.stat().st_mtime - touched
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)
    first_seen = _seen.setdefault((path, touched), time.monotonic())
    return age if age >= 0 else time.monotonic() - first_seen


_seen: dict[tuple[Path, float], float] = {}
"""(Claim file, when it was touched) -> this process's clock when that was first seen."""
