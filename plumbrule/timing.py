"""Seconds by part of the work, also of code that does not know who asks.

    watch = Stopwatch()
    with watch("generate"):
        ...             # inside, `timed("prefill")` adds to the same watch

A part may lie inside another one; their seconds are not exclusive. On an accelerator, which works
on after a call has returned, a part ends when its work is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch


class Stopwatch:
    """Seconds by part; `with watch("generate"): ...` adds the time spent inside."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time spent inside to `part`, also where an exception ends it."""
        token = _active.set(self)
        begun = time.monotonic()
        try:
            yield
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                torch.cuda.synchronize()
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - begun
            _active.reset(token)

    def total(self) -> float:
        """Return the seconds since the watch was made."""
        return time.monotonic() - self.begun


_active: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Add the time spent inside to `part` of the watch that is running, if one is."""
    watch = _active.get()
    if watch is None:
        yield
    else:
        with watch(part):
            yield
