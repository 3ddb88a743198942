"""The command line as a user meets it: a real process, offline, with a store of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import forked

LONGEST_SECONDS = 600.0
"""After which a command that has not ended fails its test."""
COMMAND = ("-m", "plumbrule")


def command_environment(store: Path, **more: str) -> dict[str, str]:
    """Return the environment of a command that works in `store` with one thread."""
    return {**os.environ, "PLUMBRULE_STORE": str(store), "OMP_NUM_THREADS": "1", **more}


def plumbrule(
    store: Path, *arguments: str, anew: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder of a store and return what it said.

    Args: anew: whether it imports everything itself, as a user's command does; else it is forked
    from a process that has (`forked.py`).

    Raises: subprocess.TimeoutExpired: it took longer than `LONGEST_SECONDS`.
    """
    variables = command_environment(store, **environment)
    if not anew:
        return forked.run([*COMMAND, *arguments], variables, store, LONGEST_SECONDS)
    return subprocess.run(
        [sys.executable, *COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=store,
        env=variables,
        check=False,
        timeout=LONGEST_SECONDS,
    )


def start_plumbrule(
    store: Path, *arguments: str, own_session: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """Start a command in the folder of a store; what it says is read by its `stderr`.

    Args: own_session: whether it leads a process group of its own, which can be killed as one.
    """
    return subprocess.Popen(
        [sys.executable, *COMMAND, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=store,
        env=command_environment(store, **environment),
        start_new_session=own_session,
    )
