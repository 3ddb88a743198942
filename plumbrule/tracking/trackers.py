"""Where a command's metrics go beside its files: a registry of trackers, W&B the first of them.

`metrics.jsonl` and `run.json` are always written (`stage_tracker.py`,
`plumbrule/pipeline/run_record.py`). A tracker mirrors them: one run for each command, or for each
cell of a sweep, with the whole config, the curves of every node, the headline metrics and the
report. A plug-in registers its own:

    from plumbrule.tracking.trackers import TRACKERS

    @TRACKERS.register("mine")
    def start(tracking, about, say):
        return MyTracker(...)        # a RunTracker

It is then `--plugin mine.py tracking.name=mine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from plumbrule.registry import Registry
from plumbrule.tracking.stage_tracker import Mirror

Uses = Mapping[str, tuple[str, str]]
"""Input slot -> (kind, fingerprint) of the artifact that fills it."""


class CommandFacts(NamedTuple):
    """What is known of a command before its nodes are built.

    id: unique to the command. name: the cell's overrides, or the run's name. group: the sweep's
    name, "" outside of one. folder: of the run. config: the whole composed config, nested.
    """

    id: str
    name: str
    group: str
    tags: Sequence[str]
    folder: Path
    config: Mapping[str, Any]


class NodeFacts(NamedTuple):
    """A node that is about to be built. folder: its attempt's, kept until it is published."""

    node: str
    kind: str
    fingerprint: str
    config: Mapping[str, Any]
    inputs: Uses
    folder: Path


class RunTracker(Protocol):
    """One command's run in a tracker."""

    run_id: str | None
    """What manifests record; None: the tracker has no such thing."""

    def stage(self, about: NodeFacts) -> Mirror | None:
        """Return what mirrors the metrics of a node that is built here; None: nothing does."""

    def show(self, node: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Mirror the curves of a node whose artifact was there: rows of its `metrics.jsonl`."""

    def published(self, about: NodeFacts) -> None:
        """Record that a node was built, and from what."""

    def finish(
        self, record: Mapping[str, Any] | None, report: Path | None, failed: bool = False
    ) -> None:
        """Write the headline metrics and the report, and close the run.

        Args: record, report: of a command that ended, else None.
        """


class FilesOnly:
    """Mirrors nothing: `metrics.jsonl`, `run.json` and the report are all there is."""

    run_id: str | None = None

    def stage(self, about: NodeFacts) -> Mirror | None:
        """Return None."""
        return None

    def show(self, node: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing."""

    def published(self, about: NodeFacts) -> None:
        """Do nothing."""

    def finish(
        self, record: Mapping[str, Any] | None, report: Path | None, failed: bool = False
    ) -> None:
        """Do nothing."""


def files_only(tracking: Any, about: CommandFacts, say: Callable[[str], None]) -> RunTracker:
    """Return a tracker that mirrors nothing."""
    return FilesOnly()


Start = Callable[[Any, CommandFacts, Callable[[str], None]], RunTracker]
TRACKERS: Registry[Start] = Registry(
    "tracking.name",
    {
        "wandb": ("plumbrule.tracking.wandb_run:start",),
        "jsonl": ("plumbrule.tracking.trackers:files_only",),
        "none": ("plumbrule.tracking.trackers:files_only",),
        "tensorboard": ("plumbrule.tracking.scalar_trackers:tensorboard", "extra"),
        "trackio": ("plumbrule.tracking.scalar_trackers:trackio", "extra"),
    },
    traits=("extra",),
)
"""tracking.name -> a function of the tracking config, the command and where to say something.

extra: the package of that name is an optional one of Plumbrule's."""
