"""The trackers that stages are given: one that writes files, and one that tracks nothing.

Stages know the protocol alone (`plumbrule/protocols.py`). Metrics are always appended to the
artifact's `metrics.jsonl`, one row per update, so the curves of a cached stage can be drawn again.
What else a command tracks with (W&B, say) stands behind a `Mirror` (`trackers.py`).
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from plumbrule.store.file_names import METRIC_ROWS
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.progress import Progress


class NullTracker:
    """Tracks nothing; for processes of rank above 0, and for tests."""

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""

    @contextmanager
    def progress(self, total: int, what: str, unit: str) -> Iterator[Progress]:
        """Yield a progress line that is not shown."""
        with Progress(total, what, unit, stream=None) as line:
            yield line

    def rewind(self, update: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""


class Mirror(Protocol):
    """What is told of everything that a stage logs."""

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        """Take one row; NaN and infinity may come as text."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Take a table of samples."""

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Take the stage's headline metrics; the last call."""


class FileTracker:
    """Appends to `<out>/metrics.jsonl`, tells `mirror`, and shows progress on standard error."""

    def __init__(self, out: Path, mirror: Mirror | None = None):
        self.path, self.mirror = out / METRIC_ROWS, mirror

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Append one row; NaN and infinity are written as text, since JSON has neither."""
        row: dict[str, Any] = {"update": int(update)}
        for name, value in metrics.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else str(number)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.mirror is not None:
            self.mirror.log(metrics, int(update))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Mirror a table; for the artifact it is a file of its own already."""
        if self.mirror is not None:
            self.mirror.table(name, columns, rows)

    @contextmanager
    def progress(self, total: int, what: str, unit: str) -> Iterator[Progress]:
        """Yield a progress line on standard error."""
        with Progress(total, what, unit, stream=sys.stderr) as line:
            yield line

    def rewind(self, update: int) -> None:
        """Drop rows after `update`, and a last row that a killed process left half-written.

        The mirror, which may be new, is told the rows that stay.
        """
        rows = read_metrics(self.path.parent)
        kept = [row for row in rows if row["update"] <= update]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(partial, self.path)
        self.send(kept)

    def send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Tell the mirror rows that stand in the file already."""
        if self.mirror is not None:
            for row in rows:
                self.mirror.log({k: v for k, v in row.items() if k != "update"}, row["update"])

    def say(self, text: str) -> None:
        """Print a line on standard error."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Close the mirror; headline metrics stand in the manifest."""
        if self.mirror is not None:
            self.mirror.finish(metrics, failed)
