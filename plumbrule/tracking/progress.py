"""One line of progress: how far, how fast, how long still.

On a terminal the line is redrawn in place; elsewhere (a log file, a pipe, a terminal that can't:
TERM=dumb) a line is printed every ten seconds, so a log stays readable. The rate is over the whole
of this process's work, so a resumed stage shows its true speed.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from plumbrule.surroundings import redraws


class Progress:
    """A context manager; call `advance` as work is done.

    Args: total: units of work in all. what: who reports. unit: plural noun. stream: None shows
    nothing.
    """

    def __init__(self, total: int, what: str, unit: str, stream: TextIO | None):
        self.total, self.what, self.unit, self.stream = total, what, unit, stream
        self.done = 0
        self._begun = self._shown = time.monotonic()
        self._skipped = 0
        self._terminal = stream is not None and redraws(stream.isatty())
        self._detail = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is None:
            self._show(last=True)
        elif self._terminal and self.stream:
            self.stream.write("\n")

    def skip(self, n: int) -> None:
        """Count `n` units as done before this process began."""
        self.done += n
        self._skipped += n

    def advance(self, n: int = 1, **shown: float | str) -> None:
        """Count `n` more units; `shown` numbers stand at the end of the line."""
        self.done += n
        self._detail = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in shown.items()
        )
        now = time.monotonic()
        if now - self._shown >= (0.1 if self._terminal else 10.0):
            self._shown = now
            self._show()

    def _show(self, last: bool = False) -> None:
        if self.stream is None:
            return
        seconds = max(time.monotonic() - self._begun, 1e-9)
        rate = (self.done - self._skipped) / seconds
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        timing = f"in {clock(seconds)}" if last else f"{clock(left)} left"
        line = (
            f"  {self.what}  {self.done:,}/{self.total:,} {self.unit}"
            f"  {rate:,.3g} {self.unit}/s  {timing}  {self._detail}"
        ).rstrip()
        if self._terminal:
            self.stream.write(f"\r\x1b[2K{line[:160]}" + ("\n" if last else ""))
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


def clock(seconds: float) -> str:
    """Return 1:02:03, 2:03 or 3.4 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
