"""Lines for the user beside a command's output."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

from plumbrule.errors import Terminated


def say(line: str) -> None:
    """Print a line about the run to standard error, where progress goes too."""
    print(line, file=sys.stderr, flush=True)


def describe_stop(error: BaseException) -> str:
    """Return what stopped a run."""
    return "SIGTERM" if isinstance(error, Terminated) else "Ctrl-C"


def explain_permission(error: PermissionError) -> str:
    """Return a refusal of the file system as one line, with what a shared store needs."""
    path = Path(os.fsdecode(error.filename)) if error.filename is not None else None
    mode = ""
    with contextlib.suppress(OSError):
        if path is not None:
            mode = f", mode {stat.S_IMODE(path.stat().st_mode):03o}"
    reason = error.strerror or "permission denied"
    return (
        f"{path or 'a file'} ({reason}{mode}) must let this user in; "
        "a store that a group shares needs a folder of that group with chmod g+rwxs, and umask 007 "
        "or 002 for everyone who writes. Else pass run.store=<folder>."
    )
