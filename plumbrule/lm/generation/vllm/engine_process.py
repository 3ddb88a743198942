"""The process that runs vLLM, as seen from here: started, asked, watched, ended.

Both pipes are read and written with a deadline, so a process that is stuck is an error and no
hang. What it prints to standard error goes into a file without a name, of which the last lines
stand in the error if it dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.lm.generation.vllm import engine_script  # imports no vLLM until an engine starts
from plumbrule.lm.generation.vllm.framing import Frame, FramingError, pack, read_message

SCRIPT = Path(engine_script.__file__)
LAST_LINES = 20
"""Of what a dead process printed, in the error."""
GRACE_SECONDS = 5.0
"""For a process that was asked to end."""


class EngineDied(Exception):
    """The process ended while it was needed; its message says how, and with which last lines."""


class EngineHung(Exception):
    """The process did not answer in time, and was ended."""


class EngineFailed(Exception):
    """The process answered with an error. Args: kind: the error's class. said: its message."""

    def __init__(self, kind: str, said: str, last_lines: str):
        super().__init__(f"{kind}: {said}")
        self.kind, self.said, self.last_lines = kind, said, last_lines


class EngineProcess:
    """One process and the pipes to it.

    Args:
        python: that of vLLM's environment.
        memory: file descriptor of the weights' memory, which the process inherits.
        environment: variables beside those of this process.
        timeout_seconds: for each answer.
        unset: variables of this process that it does not get.
        script: what to run, in place of `engine_script.py`.
    """

    def __init__(
        self,
        python: Path,
        memory: int,
        environment: Mapping[str, str],
        timeout_seconds: float,
        unset: Collection[str] = (),
        script: Path = SCRIPT,
    ):
        self.timeout_seconds = timeout_seconds
        self.printed = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(python), "-I", str(script), str(memory), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.printed,
            env={k: v for k, v in os.environ.items() if k not in unset} | dict(environment),
            pass_fds=[memory],
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.input, False)
        os.set_blocking(self.output, False)

    def ask(self, body: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> Frame:
        """Send a request and return the answer.

        Raises: EngineDied, EngineHung: after them the process is gone. EngineFailed: it goes on.
        """
        deadline = time.monotonic() + self.timeout_seconds
        self._write(pack(body, blobs), deadline)
        return self.answer(deadline)

    def answer(self, deadline: float | None = None) -> Frame:
        """Return the next message of the process; as `ask`, without a request."""
        deadline = deadline or time.monotonic() + self.timeout_seconds
        try:
            message = read_message(lambda count: self._read(count, deadline))
        except FramingError as error:
            self.kill()
            raise EngineDied(f"the sampler's process spoke out of turn ({error}).") from None
        if "error" in message.body:
            raise EngineFailed(
                str(message.body["error"]), str(message.body.get("message")), self.last_lines()
            )
        return message

    def last_lines(self) -> str:
        """Return the end of what the process has printed."""
        size = os.fstat(self.printed.fileno()).st_size
        text = os.pread(self.printed.fileno(), 2**16, max(0, size - 2**16))
        lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
        return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])

    def kill(self) -> None:
        """End the process now, and wait for it."""
        self.process.kill()
        self._reap()

    def close(self) -> None:
        """End the process in order: its input ends, so it does."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        self.kill()

    def _reap(self) -> None:
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(self.input, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self.input, rest[: 2**20]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._died() from None

    def _read(self, count: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while count:
            self._wait(self.output, select.POLLIN, deadline)
            try:
                part = os.read(self.output, min(count, 2**20))
            except BlockingIOError:
                continue
            if not part:
                raise self._died()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _wait(self, file: int, event: int, deadline: float) -> None:
        """Wait until a pipe can be used. Raises: EngineHung: not before the deadline."""
        poll = select.poll()
        poll.register(file, event)
        left = deadline - time.monotonic()
        if left > 0 and poll.poll(left * 1000):
            return
        self.kill()
        raise EngineHung(
            "the sampler's process did not answer within runtime.sampler_timeout_seconds (="
            f"{self.timeout_seconds:g} seconds), and was ended; raise it if the work takes "
            f"longer. It last printed:\n{self.last_lines()}"
        )

    def _died(self) -> EngineDied:
        """Return the error that says how the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        self.kill()
        code = self.process.returncode
        how = f"ended with exit code {code}"
        if code < 0:
            name = signal.Signals(-code).name
            memory = ", as by the kernel for want of memory" if name == "SIGKILL" else ""
            how = f"was ended by {name}{memory}"
        return EngineDied(f"the sampler's process {how}. It last printed:\n{self.last_lines()}")
