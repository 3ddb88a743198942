"""Processes that begin with torch, transformers and the stages imported.

Importing those takes a process 4 CPU seconds, longer than most of what tests let it do. So a fork
server (`multiprocessing`), which each pytest process starts once, imports them (`loaded.py`), and a
test's processes are its forks. They are what `python -m module` starts in all else: a process id
of their own, environment, folder, arguments, pipes, signals and exit code. Where a test asks what
is imported, or sets a variable that is read at an import or by the interpreter, a process must be
started anew (`subprocess`); so must one that is to end with its parent's id.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.process
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO

from places import process_environment

READ_AT_START = (
    *("PYTHON", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "LD_", "CUDA_", "HF_"),
    *("PLUMBRULE_SILENT_SECONDS", "PLUMBRULE_BEAT_SECONDS"),
)
"""Beginnings of the variables that the interpreter, libraries and our modules read once."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["loaded"])


class Forked:
    """A running process with the methods of `subprocess.Popen`; both pipes are text."""

    def __init__(
        self,
        words: list[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        own_session: bool = False,
    ):
        """Begin `-m module arguments`, `-c code arguments` or `script.py arguments`.

        Args: environment: None: one that finds the project and the tests' support. folder: where
        it works; None: where this process does. own_session: whether it leads a process group of
        its own.

        Raises: ValueError: the environment sets a variable that would be read too late.
        """
        environment = _server_environment() if environment is None else environment
        if late := read_too_late(environment):
            raise ValueError(f"{late} must be read at the start; start the process anew.")
        with _in_environment(_server_environment()):
            forkserver.ensure_running()
        pipes = [_context.Pipe(duplex=False) for _ in range(2)]
        self._process = _context.Process(
            target=_become,
            args=(
                words,
                dict(environment),
                folder or Path.cwd(),
                own_session,
                *(w for _, w in pipes),
            ),
        )
        self._process.start()
        # As a Popen's, it does not keep this process from ending.
        multiprocessing.process._children.discard(self._process)
        for _, written in pipes:
            written.close()
        self.stdout, self.stderr = (_text(read) for read, _ in pipes)
        self.pid = self._process.pid
        self.args = words

    @property
    def returncode(self) -> int | None:
        """The exit code, the negative number of a signal, or None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended. Raises: subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it still says to its output and errors. Raises: as `wait`."""
        said = ["", ""]

        def read(place: int, pipe: IO[str]) -> None:
            with pipe:
                said[place] = pipe.read()

        pipes = enumerate((self.stdout, self.stderr))
        readers = [threading.Thread(target=read, args=each, daemon=True) for each in pipes]
        for reader in readers:
            reader.start()
        ends = None if timeout is None else time.monotonic() + timeout
        for reader in readers:
            reader.join(_left(ends))
            if reader.is_alive():  # its end, or a child's that has the pipe
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(_left(ends))
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Forked:
        """Return the process."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Wait for it."""
        self.wait()
        self.stdout.close()
        self.stderr.close()


def run(
    words: list[str], environment: Mapping[str, str] | None, folder: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a process to its end.

    Raises: subprocess.TimeoutExpired: it took longer, and was killed.
    """
    process = Forked(words, environment, folder)
    try:
        said = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(words, process.wait(), *said)


def read_too_late(environment: Mapping[str, str]) -> list[str]:
    """Return the variables for which a process with this environment must be started anew."""
    there = _server_environment()
    names = {n for n in (*environment, *there) if n.startswith(READ_AT_START)} - {"PYTHONPATH"}
    return sorted(name for name in names if environment.get(name) != there.get(name))


def _server_environment() -> dict[str, str]:
    return process_environment(OMP_NUM_THREADS="1")


def _left(ends: float | None) -> float | None:
    return None if ends is None else max(0.0, ends - time.monotonic())


def _text(read: Connection) -> IO[str]:
    return open(os.dup(read.fileno()), encoding="utf-8", errors="replace")


@contextlib.contextmanager
def _in_environment(variables: Mapping[str, str]):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _become(
    words: list[str],
    environment: dict[str, str],
    folder: Path,
    own_session: bool,
    out: Connection,
    errors: Connection,
) -> None:
    """In the new process: be what `python *words` is."""
    import loaded

    if own_session:
        os.setsid()
    for pipe, number in ((out, 1), (errors, 2)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    own = str(Path(words[0]).parent) if words[0].endswith(".py") else str(folder)
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [own, *filter(None, given), *loaded.PATH]
    sys.argv = words if words[0].endswith(".py") else [words[0], *words[2:]]
    sys.orig_argv = [sys.executable, *words]
    try:
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), main.__dict__)
        else:
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
