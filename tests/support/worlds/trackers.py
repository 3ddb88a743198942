"""Trackers that keep what a stage logs, and stop it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from plumbrule.tracking.stage_tracker import FileTracker, NullTracker


class Stopped(BaseException):
    """Stands for the death of the process, so no `except Exception` sees it."""


class StoppingTracker(NullTracker):
    """Keeps what is logged and said and raises `Stopped` when update `stop_at` is logged."""

    def __init__(self, stop_at: int | None = None):
        self.stop_at = stop_at
        self.said: list[str] = []
        self.rows: dict[int, dict[str, float]] = {}

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        if update == self.stop_at:
            raise Stopped
        self.rows[update] = dict(metrics)

    def say(self, text: str) -> None:
        self.said.append(text)


class StopsAfter(FileTracker):
    """Raises `Stopped` once update `stop_at` is in metrics.jsonl, before its checkpoint."""

    def __init__(self, out: Path, stop_at: int):
        super().__init__(out)
        self.stop_at = stop_at

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        super().log(metrics, update)
        if update == self.stop_at:
            raise Stopped


class Pausing(FileTracker):
    """Prints "paused" when update `pause_at` is logged, and waits there to be killed."""

    def __init__(self, out: Path, pause_at: int):
        super().__init__(out)
        self.pause_at = pause_at

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        super().log(metrics, update)
        if update == self.pause_at:
            print("paused", flush=True)
            time.sleep(60)
