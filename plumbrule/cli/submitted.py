"""A command that was started and left: its log, and what it tells whoever started it.

`plumbrule submit` starts the command in a session of its own, so that closing a terminal does not
end it. It prints into a file of a temporary folder until its run has a folder; there the log goes
on, and the command says so in a file beside the first one. `submit` waits for that, so what is
wrong with a setting, data or a model is said at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plumbrule.store.json_files import read_json, write_json

VARIABLE = "PLUMBRULE_SUBMITTED"
"""Names the temporary folder, in the environment of the command until it has a log of its own."""
FIRST_LOG, TOLD = "first.log", "told.json"
LOOK_SECONDS = 0.1
COMMAND = "submit"
COMMAND_LOG = "command.log"
"""In the folder of a run; that of a sweep lies beside its cells and is named after it."""


class Started(NamedTuple):
    """A command that goes on by itself. name: of its run or sweep. store: its folder."""

    name: str
    log: Path
    store: Path
    pid: int
    printed: str
    """What it has printed so far."""


class Ended(NamedTuple):
    """A command that ended before there was anything to be left: it was refused, or dry."""

    code: int
    printed: str


def start(words: Sequence[str]) -> Started | Ended:
    """Start `plumbrule <words>` in the background and wait until it has its log, or has ended."""
    with tempfile.TemporaryDirectory(prefix="plumbrule-submit-") as waiting:
        first, told = Path(waiting) / FIRST_LOG, Path(waiting) / TOLD
        with open(first, "wb") as log:
            process = subprocess.Popen(
                [*_program(), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, VARIABLE: waiting},
                start_new_session=True,
            )
        try:
            while process.poll() is None and not told.exists():
                time.sleep(LOOK_SECONDS)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        printed = first.read_bytes().decode("utf-8", "replace")
        if not told.exists():
            return Ended(process.wait(), printed)
        about = read_json(told)
        log_path, store = Path(about["log"]), Path(about["store"])
        return Started(about["name"], log_path, store, process.pid, printed)


def take_log(log: Path, name: str, store: Path) -> None:
    """Let this command print into its own log from now on, if it was submitted; tell who waits.

    Args: log: made, or added to. name: of the run or the sweep. store: its folder.
    """
    waiting = os.environ.pop(VARIABLE, None)
    if waiting is None:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as opened:
        opened.write((Path(waiting) / FIRST_LOG).read_bytes())
        opened.flush()
        for number in (1, 2):
            os.dup2(opened.fileno(), number)
    write_json(Path(waiting) / TOLD, {"name": name, "log": str(log), "store": str(store)})


def _program() -> list[str]:
    """Return how this program was started, without what was asked of it."""
    words = list(sys.orig_argv)
    if COMMAND in words[1:]:
        return [sys.executable, *words[1 : words.index(COMMAND, 1)]]
    return [sys.executable, "-m", "plumbrule"]
