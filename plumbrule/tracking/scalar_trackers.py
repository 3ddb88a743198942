"""TensorBoard and trackio: the curves of every node and the headline metrics of a command.

Both take numbers alone here; the config, tables of samples and the report are files of the run's
folder in any case. Metrics are called `<node>/<metric>`, of a command `<metric>`.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from plumbrule.tracking.config import TrackingConfig
from plumbrule.tracking.stage_tracker import Mirror
from plumbrule.tracking.trackers import CommandFacts, NodeFacts, RunTracker

EVENTS = "tensorboard"
"""Folder of a run in which TensorBoard's event files lie."""


class Scalars(Protocol):
    """Where numbers go."""

    def send(self, numbers: Mapping[str, float], update: int) -> None:
        """Take numbers of one update."""

    def close(self) -> None:
        """Write what is held back."""


class ScalarRun:
    """The run of a command in a tracker that takes numbers."""

    run_id: str | None = None

    def __init__(self, scalars: Scalars):
        self._scalars = scalars

    def stage(self, about: NodeFacts) -> Mirror | None:
        """Return what mirrors the metrics of a node; of data nothing does."""
        return None if about.kind == "data" else _Curves(self._scalars, about.node)

    def show(self, node: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send the rows of a cached node."""
        curves = _Curves(self._scalars, node)
        for row in rows:
            curves.log(row, int(row["update"]))

    def published(self, about: NodeFacts) -> None:
        """Do nothing: the run's record says it."""

    def finish(
        self, record: Mapping[str, Any] | None, report: Path | None, failed: bool = False
    ) -> None:
        """Send the headline metrics and close the run."""
        if record is not None:
            headline = {name: record["metrics"].get(name) for name in record["headline"]}
            self._scalars.send(_finite(headline), 0)
        self._scalars.close()


class _Curves:
    """A node's metrics as `<node>/<metric>`."""

    def __init__(self, scalars: Scalars, node: str):
        self._scalars, self._node = scalars, node

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        """Send one row; what is no finite number is left out."""
        numbers = _finite({k: v for k, v in metrics.items() if k != "update"})
        named = {f"{self._node}/{name}": value for name, value in numbers.items()}
        self._scalars.send(named, update)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing: the artifact has the table."""

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Do nothing: the command's run goes on."""


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


class _TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path):
        from tensorboard.summary import Writer

        self._writer = Writer(str(folder))

    def send(self, numbers: Mapping[str, float], update: int) -> None:
        """Append a scalar for each number."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step=update)

    def close(self) -> None:
        """Write and close the file."""
        self._writer.close()


class _Trackio:
    """A run of trackio, which is a row of a local database unless its environment says more."""

    def __init__(self, tracking: TrackingConfig, about: CommandFacts):
        import trackio

        with contextlib.redirect_stdout(sys.stderr):
            self._run = trackio.init(
                project=tracking.project,
                name=about.id,
                group=about.group or None,
                config={"command": about.name, **about.config},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def send(self, numbers: Mapping[str, float], update: int) -> None:
        """Log the numbers."""
        if numbers:
            self._run.log(dict(numbers), step=update)

    def close(self) -> None:
        """Wait until all is written; trackio's own end of the process then has nothing to do."""
        from trackio import context_vars

        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()
        if context_vars.current_run.get() is self._run:
            context_vars.current_run.set(None)


def tensorboard(
    tracking: TrackingConfig, about: CommandFacts, say: Callable[[str], None]
) -> RunTracker:
    """Start event files in the run's folder: `tensorboard --logdir <store>/runs` shows all."""
    return ScalarRun(_TensorBoard(about.folder / EVENTS))


def trackio(
    tracking: TrackingConfig, about: CommandFacts, say: Callable[[str], None]
) -> RunTracker:
    """Start a run of trackio in the project `tracking.project`; `trackio show` shows it."""
    return ScalarRun(_Trackio(tracking, about))
