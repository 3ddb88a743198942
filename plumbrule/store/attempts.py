"""Attempts: what one owner of a claim has built so far, where nobody else writes.

An attempt is the folder `<fingerprint>.build/<token of the claim>/`; a stage gets it as `out`. It
is published by renaming it to `<fingerprint>/`. Whoever takes an attempt over does not work in it:
a process that was stopped may wake with a file of it open, and its workers may still run. Instead

1. the old attempt is renamed, so that its owner's paths lead nowhere;
2. complete checkpoints are linked into a new folder (a sealed file is never written again), and all
   else, such as `metrics.jsonl`, is copied, so that no open file reaches what is made anew;
3. the new folder gets `owner.json` and is renamed to its owner's token; only then the old one goes.

So what a stale process still writes is thrown away with the old folder. Folders that it makes anew
lack `owner.json` and are never taken up. All this needs of a file system are atomic renames, also
of folders that are open, which NFS and Lustre have; a machine whose cache still knows an old path
writes into the old folder, never into the new one.

Earlier versions built in `<fingerprint>/` itself. A living one is waited for; what a dead one left
is taken over like any other attempt.

A folder that a verb writes where the user says (`convert`, `merge`) is no artifact, but is claimed,
written and renamed the same way (`written_whole`); nothing of it is taken over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store import claims
from plumbrule.store.checkpoints import (
    CHECKPOINT,
    changed_log,
    fsync_folder,
    is_complete,
    is_whole,
    newest,
)
from plumbrule.store.claims import Claim, Owner, build_folder
from plumbrule.store.file_names import CHECKPOINTS, RESULT, STAGE
from plumbrule.store.manifests import MANIFEST

OWNER = "owner.json"
WORKING = (CHECKPOINTS, claims.NAME, OWNER, STAGE, RESULT)
"""What lies in an attempt and is never published."""
NEVER_TAKEN = (MANIFEST, claims.NAME, OWNER, STAGE, RESULT)
_TAKEN, _BEGUN = ".taken-", ".begun-"
_TOKEN = re.compile(r"[0-9a-f]{32}")


def claim(artifact: Path, run: str) -> Claim | Owner:
    """Return the claim on building what belongs in `artifact`, or the living owner who has it."""
    older = artifact / claims.NAME
    if older.exists() and not (artifact / MANIFEST).exists():
        owner = claims.read_owner(older)
        if claims.is_living(older, owner):
            return owner or Owner("unknown", "unknown", 0, "", "")
    return claims.acquire(build_folder(artifact), run)


def begun(artifact: Path) -> int | None:
    """Return the step from which an unfinished attempt would be resumed; None: there is none."""
    with contextlib.suppress(FileNotFoundError):  # published this moment
        steps = [_step(path) for path in _attempts(artifact)]
        return max((step for step in steps if step >= 0), default=None)
    return None


def begin(artifact: Path, claim: Claim) -> Path:
    """Return a new attempt for the holder of `claim`, with the progress of the best old one.

    Raises: OSError: another took the claim over meanwhile (`claim.check` says who), or a full disk.
    ArtifactError: a log of the old one is not what it was at its newest checkpoint.
    """
    build = build_folder(artifact)
    with contextlib.suppress(FileNotFoundError):  # published this moment
        refuse_changed_logs(list(_attempts(artifact)))
    taken = []
    for path in list(_attempts(artifact)):  # before the first of them gets another name
        with contextlib.suppress(FileNotFoundError):  # published this moment
            taken.append(_take(path, build, claim.owner))
    rest = [path for path in build.iterdir() if _is_leftover(path)]
    fresh = build / f"{_BEGUN}{claim.owner.token}"
    fresh.mkdir()
    if taken:
        _adopt(max(taken, key=_progress), fresh)
    claims.write_owner(fresh / OWNER, claim.owner)
    attempt = build / claim.owner.token
    os.rename(fresh, attempt)
    fsync_folder(build)
    for path in {*taken, *rest}:
        _remove(path)
    return attempt


def refuse_changed_logs(attempts: Sequence[Path]) -> None:
    """Raise ArtifactError if a log of the attempt that would be resumed was damaged.

    It would be published with what is made anew, and metrics at the end are made of it.
    """
    best = max(attempts, key=_progress, default=None)
    found = newest(best / CHECKPOINTS) if best is not None else None
    changed = changed_log(found[1]) if found is not None else None
    if changed is not None and found is not None:
        rollout = "" if changed.suffix == ".jsonl" else ", remove it alone to go on without it"
        raise ArtifactError(
            f"{changed} must begin with what it held when {found[1].name} was made; put it back "
            f"from a copy{rollout}, or remove {best} to build anew."
        )


def publish(attempt: Path, artifact: Path) -> bool:
    """Rename a finished attempt into place; return False if another has published meanwhile.

    Raises: FileNotFoundError: the attempt was taken over.
    """
    while True:
        try:
            os.rename(attempt, artifact)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not artifact.is_dir():
                raise
            if (artifact / MANIFEST).exists():
                return False
            os.rename(artifact, attempt.with_name(_TAKEN + uuid.uuid4().hex))  # of an older version
        else:
            fsync_folder(artifact.parent)
            return True


def tidy(artifact: Path) -> None:
    """Remove what unfinished work left in and beside a published artifact; a living claim stays."""
    for path in artifact.iterdir():
        if not is_working(path.name) or path.name.startswith((".clock-", ".claim-")):
            continue
        if path.name != claims.NAME or not claims.is_living(path, claims.read_owner(path)):
            _remove(path)
    build = build_folder(artifact)
    held = build / claims.NAME
    if build.is_dir() and not claims.is_living(held, claims.read_owner(held)):
        _remove(build)


def clear(claim: Claim) -> None:
    """Remove all attempts at what the claim's holder has published."""
    for path in claim.path.parent.iterdir():
        if path.is_dir() or path.name.startswith("taken-"):
            _remove(path)


@contextlib.contextmanager
def written_whole(target: Path, setting: str) -> Iterator[Path]:
    """Yield a path for a new folder, which becomes `target` when the block ends.

    Where the block raises, or the process is killed, nothing lies in `target`; what a killed
    process left in `<target>.build/` is removed by the next one that writes there.

    Args: target: not there, or an empty folder. setting: that names it, for errors.
    Raises: ConfigError: another process writes it. TrainingError: another took over, as
        `Claim.check`.
    """
    target = target.absolute()
    build = build_folder(target)
    claim = claims.acquire(build, f"{setting} {target.name}")
    if not isinstance(claim, Claim):
        raise ConfigError(
            f"{setting} (={target}) must be written by one process at a time, and process "
            f"{claim.pid} on {claim.host.split('/')[0]} is at it; wait for that, or name another "
            "folder."
        )
    with claim:
        for path in build.iterdir():
            if path.is_dir() and _TOKEN.fullmatch(path.name):
                _remove(path)
        partial = build / claim.owner.token
        try:
            yield partial
            claim.check()
            os.replace(partial, target)
        finally:
            _remove(partial)


def is_working(name: str) -> bool:
    """Return whether a top-level name in an attempt's folder is never published."""
    return name in WORKING or name.startswith(".") or name.endswith(".partial")


def _attempts(artifact: Path) -> Iterator[Path]:
    """Yield the folders that hold unfinished work, that of earlier versions among them."""
    if artifact.is_dir() and not (artifact / MANIFEST).exists():
        yield artifact
    build = build_folder(artifact)
    for path in sorted(build.iterdir()) if build.is_dir() else ():
        if (path / OWNER).is_file() and not path.name.startswith(_BEGUN):
            yield path


def _take(old: Path, build: Path, owner: Owner) -> Path:
    """Move an attempt where its owner's paths don't lead and return its place there."""
    before = claims.read_owner(old / (OWNER if old.parent == build else claims.NAME))
    if before is not None and not old.name.startswith(_TAKEN):
        claims.write_owner(build / f"taken-{before.token}.json", owner)
    place = build / f"{_TAKEN}{uuid.uuid4().hex}"
    os.rename(old, place)
    if not (place / OWNER).is_file():
        claims.write_owner(place / OWNER, before or owner)
    return place


def _step(attempt: Path) -> int:
    found = newest(attempt / CHECKPOINTS)
    return -1 if found is None else found[0]


def _progress(attempt: Path) -> tuple[int, int]:
    return _step(attempt), attempt.stat().st_mtime_ns


def _is_leftover(path: Path) -> bool:
    """Return whether a folder in `.build` is no attempt that counts."""
    return path.is_dir() and (path.name.startswith(_BEGUN) or not (path / OWNER).is_file())


def _adopt(source: Path, target: Path) -> None:
    """Put into `target` what another owner can resume from, sharing no file that may be open."""
    for folder, folders, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(exist_ok=True)
        for name in list(folders):
            path = Path(folder) / name
            if CHECKPOINT.fullmatch(name):
                folders.remove(name)
                if is_complete(path):
                    _link(path, here / name)
            elif path.is_symlink() or name.startswith("."):
                folders.remove(name)
        for name in names:
            path = Path(folder) / name
            skipped = name.startswith(".") or name.endswith(".partial") or path.is_symlink()
            if skipped or (here == target and name in NEVER_TAKEN):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed by whoever still runs
                shutil.copy2(path, here / name)


def _link(source: Path, target: Path) -> None:
    """Put a complete checkpoint into `target` by hard links where there are any, else a copy."""
    try:
        shutil.copytree(source, target, copy_function=_link_file)
    except OSError:
        if is_complete(source):  # else its owner still runs and dropped it
            raise
    if not is_whole(target):  # an older one is then resumed
        shutil.rmtree(target, ignore_errors=True)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    """Remove a file or a folder; what another removes at the same time is gone as well."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
