"""Where a stage's metrics, tables and progress go. What each metric means: `metrics.py`.

Every stage gets one `Tracker`. Metrics are always appended to the artifact's `metrics.jsonl`, one
row per update, so the curves of a cached stage can be drawn again. With `tracking=wandb` they go to
Weights & Biases as well: online where a key is set up, else offline into the run folder; it never
asks (`wandb_start.py`). W&B's own step only moves forward and a resumed run repeats updates, so
everything is logged against an axis of our own, `update`.
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

from plumbrule.config import TrackingConfig
from plumbrule.progress import Progress
from plumbrule.wandb_start import start_run


class Tracker(Protocol):
    """What a stage may do with its metrics."""

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Record numbers of one update (optimizer step, PPO update or item count)."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table of samples."""

    def progress(self, total: int, what: str, unit: str) -> Any:
        """Return a context manager whose `advance(n=1, **shown)` moves a line with rate and ETA."""

    def rewind(self, update: int) -> None:
        """Forget rows of updates after `update`: a resumed stage will log them again."""

    def say(self, text: str) -> None:
        """Show the user a line."""


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


class FileTracker:
    """Appends to `<out>/metrics.jsonl` and shows progress on standard error."""

    def __init__(self, out: Path):
        self.path = out / "metrics.jsonl"

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Append one row; NaN and infinity are written as text, since JSON has neither."""
        row: dict[str, Any] = {"update": int(update)}
        for name, value in metrics.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else str(number)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing: a stage's tables are files of its artifact already."""

    @contextmanager
    def progress(self, total: int, what: str, unit: str) -> Iterator[Progress]:
        """Yield a progress line on standard error."""
        with Progress(total, what, unit, stream=sys.stderr) as line:
            yield line

    def rewind(self, update: int) -> None:
        """Drop rows after `update`, and a last row that a killed process left half-written."""
        rows = read_metrics(self.path.parent)
        kept = [row for row in rows if row["update"] <= update]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(partial, self.path)

    def say(self, text: str) -> None:
        """Print a line on standard error."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Do nothing: headline metrics stand in the manifest."""


class WandbTracker(FileTracker):
    """A FileTracker that mirrors everything to one W&B run per node.

    Its id is kept beside the artifact's checkpoints, so a resumed node goes on in the same W&B run.
    Runs of one command share a group.
    """

    def __init__(
        self,
        out: Path,
        tracking: TrackingConfig,
        *,
        node: str,
        kind: str,
        group: str,
        run_id: str,
        folder: Path,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
    ):
        super().__init__(out)
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.run_id = run_id
        self._wandb = wandb
        folder.mkdir(parents=True, exist_ok=True)
        self._run = start_run(
            self.say,
            project=tracking.project,
            entity=tracking.entity,
            id=run_id,
            name=node,
            group=group,
            job_type=kind,
            dir=str(folder),
            config={"node": node, "inputs": dict(inputs), **config},
        )
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Append one row and mirror it."""
        super().log(metrics, update)
        self._run.log({**{k: float(v) for k, v in metrics.items()}, "update": int(update)})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Mirror a table of samples."""
        data = [[_cell(value) for value in row] for row in rows]
        self._run.log({name: self._wandb.Table(columns=list(columns), data=data)})

    def mirror(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send rows that another process appended to metrics.jsonl."""
        for row in rows:
            self._run.log(dict(row))

    def lineage(self, uses: Mapping[str, tuple[str, str]], makes: tuple[str, str]) -> None:
        """Record which artifacts the node read and made: slot -> (kind, fingerprint)."""
        self._run.summary["uses"] = {slot: f"{k}/{f}" for slot, (k, f) in uses.items()}
        made = self._wandb.Artifact(f"{makes[0]}-{makes[1]}", type=makes[0])
        made.metadata["uses"] = {slot: f"{k}-{f}" for slot, (k, f) in uses.items()}
        self._run.log_artifact(made)

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Write headline metrics into the summary and close the run."""
        for name, value in metrics.items():
            self._run.summary[name] = float(value)
        self._run.finish(exit_code=1 if failed else 0)


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a stage's metrics.jsonl, up to the first that is half-written or damaged.

    Of a published one `Artifact.file` has said before that none is.
    """
    path = out / "metrics.jsonl"
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or type(row.get("update")) is not int:
            break
        rows.append(row)
    return rows


def _cell(value: Any) -> Any:
    simple = isinstance(value, str | int | float | bool) or value is None
    return value if simple else json.dumps(value, ensure_ascii=False, default=str)
