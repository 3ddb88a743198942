"""A command as one Weights & Biases run.

Its config is the whole composed config, nested, so that W&B has `ppo.kl.coef` as a column, and its
summary has the names of `run.json`: `ppo/gold_gain` over `ppo.kl.coef` is a plot of two columns.
Curves are named `<node>/<metric>` over `<node>/update`, an axis of our own: W&B's step only moves
forward, and a resumed node repeats updates. Of a node that was resumed or cached the earlier rows
are sent as well, so a run's curves are whole whoever built them.

Nodes can have runs of their own beside it (`tracking.stage_runs`). Their ids are kept beside the
checkpoints, so a resumed node goes on in the same one.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.store.file_names import WANDB_RUN
from plumbrule.store.json_files import read_json, write_json
from plumbrule.tracking.config import TrackingConfig
from plumbrule.tracking.stage_tracker import Mirror
from plumbrule.tracking.trackers import CommandFacts, NodeFacts, RunTracker
from plumbrule.tracking.wandb_start import start_run

TAG_CHARACTERS = 64
"""Longest tag that W&B takes."""


def start(tracking: TrackingConfig, about: CommandFacts, say: Callable[[str], None]) -> RunTracker:
    """Start the W&B run of a command."""
    return WandbRun(tracking, about, say)


def safe_id(text: str) -> str:
    """Return a name without the characters that W&B refuses in the id of a run."""
    return re.sub(r"[:;,#?/'\\%]", "-", text)


class WandbRun:
    """The run of a command."""

    def __init__(self, tracking: TrackingConfig, about: CommandFacts, say: Callable[[str], None]):
        self.tracking, self.about, self.say = tracking, about, say
        os.environ.setdefault("WANDB_SILENT", "true")
        about.folder.mkdir(parents=True, exist_ok=True)
        self._run = start_run(
            say,
            project=tracking.project,
            entity=tracking.entity,
            id=safe_id(about.id),
            name=about.name[:128],
            group=about.group or None,
            job_type="run",
            tags=[tag[:TAG_CHARACTERS] for tag in about.tags],
            dir=str(about.folder),
            config=dict(about.config),
        )
        self.run_id: str | None = self._run.id

    def stage(self, about: NodeFacts) -> Mirror | None:
        """Return what mirrors a node's metrics into this run, and into its own where it has one."""
        if about.kind == "data":
            return None
        mirrors: list[Mirror] = [_Curves(self._run, about.node)]
        if self.tracking.stage_runs:
            mirrors.append(_stage_run(self.tracking, self.about, about, self.say))
        return _Several(mirrors)

    def show(self, node: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send the rows of a cached node."""
        curves = _Curves(self._run, node)
        for row in rows:
            curves.log(row, int(row["update"]))

    def published(self, about: NodeFacts) -> None:
        """Record as W&B artifacts, without their files, what was made and of what."""
        self._run.log_artifact(_lineage(about))

    def finish(
        self, record: Mapping[str, Any] | None, report: Path | None, failed: bool = False
    ) -> None:
        """Write all metrics into the summary, attach the report, close the run."""
        if record is not None:
            self._run.summary.update(dict(record["metrics"]))
            self._run.summary["headline"] = list(record["headline"])
        if report is not None:
            import wandb

            self._run.log({"report": wandb.Html(str(report))})
        self._run.finish(exit_code=1 if failed else 0)


class _Curves:
    """A node's metrics in a run, `<prefix>/<metric>` over `<prefix>/update`; "": as they are."""

    def __init__(self, run: Any, prefix: str):
        self._run, self._head = run, f"{prefix}/" if prefix else ""
        run.define_metric(f"{self._head}update")
        run.define_metric(f"{self._head}*", step_metric=f"{self._head}update")

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        """Send one row; what is no number is left out."""
        row = {
            f"{self._head}{name}": float(value)
            for name, value in metrics.items()
            if name != "update" and isinstance(value, int | float) and math.isfinite(value)
        }
        self._run.log({**row, f"{self._head}update": update})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Send a table of samples."""
        import wandb

        data = [[_cell(value) for value in row] for row in rows]
        self._run.log({f"{self._head}{name}": wandb.Table(columns=list(columns), data=data)})

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Do nothing: the command's run goes on."""


class _StageRun(_Curves):
    """A node's own run."""

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Write the node's headline metrics into the summary and close its run."""
        self._run.summary.update({name: float(value) for name, value in metrics.items()})
        self._run.finish(exit_code=1 if failed else 0)


class _Several:
    """Several mirrors as one."""

    def __init__(self, mirrors: Sequence[Mirror]):
        self._mirrors = mirrors

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        """Send one row to each."""
        for mirror in self._mirrors:
            mirror.log(metrics, update)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Send a table to each."""
        for mirror in self._mirrors:
            mirror.table(name, columns, rows)

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Finish each."""
        for mirror in self._mirrors:
            mirror.finish(metrics, failed)


def _stage_run(
    tracking: TrackingConfig, command: CommandFacts, about: NodeFacts, say: Callable[[str], None]
) -> Mirror:
    """Return a new or resumed run of a node."""
    run = start_run(
        say,
        project=tracking.project,
        entity=tracking.entity,
        id=_kept_id(about),
        name=about.node,
        group=safe_id(command.id),
        job_type=about.kind,
        dir=str(command.folder),
        config={"node": about.node, **about.config},
    )
    return _StageRun(run, "")


def _kept_id(about: NodeFacts) -> str:
    """Return the id of this building's run, which lies beside its checkpoints."""
    path = about.folder / WANDB_RUN
    try:
        return str(read_json(path)["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        run_id = f"{about.fingerprint}-{os.urandom(3).hex()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"run_id": run_id})
        return run_id


def _lineage(about: NodeFacts) -> Any:
    import wandb

    made = wandb.Artifact(f"{about.kind}-{about.fingerprint}", type=about.kind)
    made.metadata["uses"] = {slot: f"{k}-{f}" for slot, (k, f) in about.inputs.items()}
    return made


def _cell(value: Any) -> Any:
    simple = isinstance(value, str | int | float | bool) or value is None
    return value if simple else json.dumps(value, ensure_ascii=False, default=str)
