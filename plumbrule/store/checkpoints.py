"""Checkpoints that count only when they are whole.

A checkpoint is a folder `checkpoint-<step>`. It is complete when its `COMPLETE` file, written last
and fsynced, lists every other file with its size; anything else is the rest of a killed run. So a
process may be killed, or a disk may fill, at any moment: the newest complete checkpoint stands.
The mark holds a digest of each file as well, which is checked when an attempt is taken over, and so
before any resuming (`attempts.py`). So are the logs that lie beside the checkpoints and only grow:
each checkpoint says how long they were and what they held (`logs.json`).
HF's Trainer writes its own folders of this name; `seal` completes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbrule.store.content_digests import FAST, digests
from plumbrule.store.file_names import CHECKPOINTS, METRIC_ROWS, ROLLOUTS

MARK = "COMPLETE"
WHERE = "machine.json"
BESIDE = "logs.json"
LOGS = (METRIC_ROWS, f"{ROLLOUTS}/*.parquet")
"""What a stage adds rows or whole files to, beside its `checkpoints` folder, and a resumed one
publishes. What stood there when a checkpoint was made is not written again after it."""
MACHINE: dict[str, Any] = {}
"""What `machine.prepare` says of this process's machine: each checkpoint is sealed with it, since a
stage that is resumed elsewhere agrees with an uninterrupted one only up to rounding."""
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path) -> None:
    """Make `folder` count: fsync its files, then write `COMPLETE` with names, sizes and digests."""
    if MACHINE:
        (folder / WHERE).write_text(json.dumps(MACHINE, ensure_ascii=False), encoding="utf-8")
    attempt = attempt_of(folder)
    if attempt is not None:
        logs = json.dumps(_logs_now(attempt, folder.parent), indent=1)
        (folder / BESIDE).write_text(logs, encoding="utf-8")
    about = {}
    mode = mode_of_new_files(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MARK:
            set_mode(path, mode)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            found = digests(path, FAST)
            about[str(path.relative_to(folder))] = {"size": path.stat().st_size, **found}
    partial = folder / (MARK + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(about, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / MARK)
    fsync_folder(folder)


def attempt_of(folder: Path) -> Path | None:
    """Return the attempt that a checkpoint belongs to; None: it lies in no `checkpoints` folder."""
    return next((path.parent for path in folder.parents if path.name == CHECKPOINTS), None)


def _logs_now(attempt: Path, saves: Path) -> dict[str, dict[str, Any]]:
    """Return name -> size, time and digest of the attempt's logs, which are safe on the disk then.

    Those that have not changed since the newest checkpoint under `saves` are not read again.
    """
    found = newest(saves)
    before = logs_of(found[1]) if found is not None else {}
    logs: dict[str, dict[str, Any]] = {}
    for path in sorted(path for pattern in LOGS for path in attempt.glob(pattern)):
        name, state = path.relative_to(attempt).as_posix(), path.stat()
        same = {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
        if before.get(name, {}).items() >= same.items():
            logs[name] = before[name]
            continue
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        logs[name] = {**same, **digests(path, FAST)}
    return logs


def logs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what a complete checkpoint says of the logs beside it.

    {} for one of an earlier version, and for one whose `logs.json` is damaged: it is not resumed.
    """
    try:
        if digests(folder / BESIDE, FAST)[FAST] != _read_mark(folder)[BESIDE][FAST]:
            return {}
        return json.loads((folder / BESIDE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError):
        return {}


def changed_log(folder: Path) -> Path | None:
    """Return a log that is not what it was when the checkpoint was made; None: all are.

    A rollout that is gone is no other rollout: replay says that it has none.
    """
    attempt = attempt_of(folder)
    if attempt is None:
        return None
    for name, about in logs_of(folder).items():
        path = attempt / name
        if not path.is_file():
            if name == LOGS[0]:
                return path
            continue
        size = about["size"]
        if path.stat().st_size < size or digests(path, FAST, first_bytes=size)[FAST] != about[FAST]:
            return path
    return None


def mode_of_new_files(folder: Path) -> int:
    """Return the permissions that umask (or the folder's ACL) leaves a new file in `folder`."""
    probe = folder / f".mode-{os.getpid()}"
    try:
        probe.touch()
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)


def set_mode(path: Path, mode: int) -> None:
    """Give a file these permissions: safetensors writes for the owner alone, whatever the umask.

    Those of another user's file, left by work that is taken over, stay as they are.
    """
    if stat.S_IMODE(path.stat().st_mode) != mode:
        with contextlib.suppress(PermissionError):
            path.chmod(mode)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_complete(folder: Path) -> bool:
    """Return whether `folder` is sealed and every file still has the size that was sealed.

    A mark that can't be read, or holds something else, seals nothing.
    """
    try:
        marked = _read_mark(folder)
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == about["size"]
            for name, about in marked.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def is_whole(folder: Path) -> bool:
    """Return whether `folder` is complete and every file has the content that was sealed."""
    if not is_complete(folder):
        return False
    try:
        return all(
            FAST not in about or digests(folder / name, FAST)[FAST] == about[FAST]
            for name, about in _read_mark(folder).items()
        )
    except OSError:  # dropped by whoever still runs
        return False


def _read_mark(folder: Path) -> dict[str, dict[str, Any]]:
    """Return name -> size and digest; earlier versions wrote the size only."""
    marked = json.loads((folder / MARK).read_bytes().decode("utf-8"))
    return {
        name: {"size": about} if type(about) is int else about for name, about in marked.items()
    }


def written_on(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint says of the machine that wrote it, {} where it says nothing."""
    try:
        found = json.loads((folder / WHERE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def newest(folder: Path) -> tuple[int, Path] | None:
    """Return (step, path) of the newest complete checkpoint under `folder`, or None."""
    found = [
        (int(match.group(1)), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := CHECKPOINT.fullmatch(path.name))
    ]
    return next(
        ((step, path) for step, path in sorted(found, reverse=True) if is_complete(path)), None
    )


def save(folder: Path, step: int, write: Callable[[Path], None], keep: int = 2) -> Path:
    """Let `write` fill a fresh `checkpoint-<step>` under `folder`, seal it, drop old ones.

    The newest `keep` complete checkpoints stay; they are dropped only after the new one is sealed.
    Raises: whatever `write` raises (a full disk, say); the older checkpoints are then untouched.
    """
    target = folder / f"checkpoint-{step}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        write(target)
        seal(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    prune(folder, keep)
    return target


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` complete checkpoints, and every unfinished one."""
    steps = sorted(
        (int(m.group(1)), p) for p in folder.iterdir() if (m := CHECKPOINT.fullmatch(p.name))
    )
    complete = [path for _, path in steps if is_complete(path)]
    kept = set(complete[-keep:])
    for _, path in steps:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
