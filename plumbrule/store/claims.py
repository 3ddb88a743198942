"""Claims: who builds an artifact, agreed on through the file system alone.

What is being built lies beside the place where it will be published, in a folder of its own:

    artifacts/<kind>/<fingerprint>/               published, and written by nobody any more
    artifacts/<kind>/<fingerprint>.build/
        claim.json                                who builds: made with O_EXCL, touched by its owner
        <token of the claim>/                     that owner's attempt (`attempts.py`)
        taken-<token>.json                        who took the attempt with that token over

A claim that has been silent for two minutes, or whose process on this machine is gone, is taken
over. An owner whose claim is gone is interrupted, and looks once more before its attempt is renamed
into place. So two builders may waste work when clocks and networks are at their worst, but each of
them writes into its own attempt, and only one attempt is published.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from plumbrule.errors import ArtifactError, Terminated, TrainingError
from plumbrule.store.manifests import read_manifest, write_text

NAME = "claim.json"
BUILD = ".build"
SILENT_SECONDS = float(os.environ.get("PLUMBRULE_SILENT_SECONDS", "120"))
"""How long an owner may be silent; longer than any machine is swapped out for a moment."""
BEAT_SECONDS = float(os.environ.get("PLUMBRULE_BEAT_SECONDS", "5"))
ENDED = ("Z", "X")
"""States of a process of which nothing runs any more, in /proc."""
DAMAGED_BEATS = 3
"""A claim that can't be read is someone's as long as it was touched within so many beats."""


def build_folder(artifact: Path) -> Path:
    """Return the folder beside an artifact's in which it is built."""
    return artifact.with_name(artifact.name + BUILD)


def published_path(path: Path) -> Path:
    """Return where an attempt's folder, or a file in it, will be published; else the path itself.

    What a stage writes must name this one, if it has to name a path of its own at all.
    """
    for attempt in (path, *path.parents):
        build = attempt.parent
        if build.name.endswith(BUILD) and build.name != BUILD:
            return build.with_name(build.name.removesuffix(BUILD)) / path.relative_to(attempt)
    return path


@dataclass(frozen=True)
class Owner:
    """Who holds a claim, as its file says."""

    run: str
    host: str
    pid: int
    born: str
    token: str
    readable: bool = True
    """False: a later version wrote it, so all that tells whether it lives is its beat."""

    def __str__(self) -> str:
        return f"run {self.run} (process {self.pid} on {self.host.split('/')[0]})"


class Claim:
    """A held claim; use as a context manager around the building of an artifact."""

    def __init__(self, folder: Path, owner: Owner):
        self.path, self.owner = folder / NAME, owner
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="claim")

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Release the claim; an interrupt by its own beat leaves as the error that says why.

        Raises: TrainingError: the claim was lost, and that is what interrupted the building.
        """
        late: KeyboardInterrupt | None = None
        try:
            with self._ending:
                self._stop.set()
        except KeyboardInterrupt as sent:  # this moment: by the beat, or by the user
            late = sent
        self._thread.join()
        stops = (error, late)
        if self._lost.is_set() and any(
            isinstance(stop, KeyboardInterrupt) and not isinstance(stop, Terminated)
            for stop in stops
        ):
            self.check()
        _remove(self.path, self.owner)  # never another's
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()  # an attempt that was left keeps it
        if late is not None and not isinstance(error, KeyboardInterrupt):
            raise late

    def check(self) -> None:
        """Raise TrainingError if someone else has taken the claim, or it was removed."""
        if not self._lost.is_set() and self._is_mine():
            return
        self._stop.set()  # the error says it; no interrupt on top
        successor = self.successor()
        how = "was removed" if successor is None else f"was taken over by {successor}"
        raise TrainingError(
            f"the claim {self.path} of this process {how} while it was silent; its work is left "
            "unpublished. Run the same command again."
        )

    def successor(self) -> str | None:
        """Return who builds, has taken over or has published instead of this owner, if anyone."""
        for path in (self.path, self.path.with_name(f"taken-{self.owner.token}.json")):
            owner = read_owner(path)
            if owner is not None and owner.token != self.owner.token:
                return str(owner)
        name = self.path.parent.name.removesuffix(BUILD)
        try:
            published = read_manifest(self.path.parent.with_name(name))
        except (OSError, ArtifactError):
            return None
        return published.built_by or "another command, which has published"

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
                with self._ending:
                    if not self._stop.is_set():  # a signal, which also ends the wait for a child
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)


def acquire(folder: Path, run: str) -> Claim | Owner:
    """Return the claim on `folder` for `run`, or the living owner who has it."""
    path = folder / NAME
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        me = Owner(run, _host(), os.getpid(), born(os.getpid()), uuid.uuid4().hex)
        if _create(path, me):
            return Claim(folder, me)
        owner = read_owner(path)
        if is_living(path, owner):
            return owner or Owner("unknown", "unknown", 0, "", "")
        if path.exists():
            _remove(path, owner)


def is_living(path: Path, owner: Owner | None) -> bool:
    """Return whether the claim at `path`, which names `owner`, is a living process's.

    One that can't be read, half-written or damaged, lives as long as someone touches it.
    """
    age = _age_seconds(path)
    if age is None:
        return False
    if owner is None:
        return age < DAMAGED_BEATS * BEAT_SECONDS
    return _alive(owner) and age < SILENT_SECONDS


def read_owner(path: Path) -> Owner | None:
    """Return the owner that a claim file names; None where there is none or it is damaged.

    A claim with fields that this version does not know, or without some that it does, is one of a
    later version, and as good as any.
    """
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    texts = {name: found.get(name, "unknown") for name in ("run", "host", "born", "token")}
    pid = found.get("pid", 0)
    if not all(isinstance(text, str) for text in texts.values()) or type(pid) is not int:
        return None
    expected = {f.name for f in fields(Owner)} - {"readable"}
    return Owner(**texts, pid=pid, readable=set(found) == expected)


def write_owner(path: Path, owner: Owner) -> None:
    """Write who an owner is, as `read_owner` reads it."""
    write_text(path, json.dumps(_row(owner)))


def _row(owner: Owner) -> dict[str, Any]:
    return {name: value for name, value in asdict(owner).items() if name != "readable"}


def _create(path: Path, owner: Owner) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except (FileExistsError, FileNotFoundError):  # or the folder went this moment: published
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(_row(owner), file)
        file.flush()
        os.fsync(file.fileno())
    return True


def _remove(path: Path, judged: Owner | None) -> None:
    """Move a claim aside and remove it; put it back if it is another than was judged."""
    aside = path.with_name(f".claim-{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if read_owner(aside) != judged:
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        except OSError:  # no hard links here
            os.rename(aside, path)
    aside.unlink(missing_ok=True)


def _alive(owner: Owner) -> bool:
    """Return False only where this machine knows that the owner's process is gone."""
    if owner.host != _host() or not owner.readable:
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
    """Return when a process of this machine started, so that a reused pid is told apart.

    One that has ended and that its parent has not waited for is gone, too: nothing of it runs.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        state, *rest = stat.rsplit(")", 1)[1].split()
        return rest[18] if state not in ENDED else "gone"
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
