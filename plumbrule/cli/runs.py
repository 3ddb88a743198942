"""One run from its composed config to its record: planned, begun, ended or failed.

A `Run` takes part in a merged graph (`plumbrule/pipeline/executors/merged_graph.py`): the only one
of a command, or a cell of a sweep. It leaves `runs/<name>/<stamp>-<id>/` with `run.json`,
`report.html` and `report.md`.
"""

from __future__ import annotations

import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from plumbrule.cli.composition import CONF
from plumbrule.cli.messages import describe_stop, say
from plumbrule.cli.plan_page import print_plan, tracking_line
from plumbrule.cli.sweeps.cell_files import SweepCell, leave_failure
from plumbrule.errors import DataError, NeedsInput, PlumbruleError, Pruned
from plumbrule.machine.accelerators import require_device
from plumbrule.pipeline import run_record
from plumbrule.pipeline.compose import Composed, compose_run
from plumbrule.pipeline.execute import NodeResult, RunContext, artifact_of, show_curves
from plumbrule.pipeline.expected_time import expected_seconds
from plumbrule.pipeline.experiment import RunConfig, as_json
from plumbrule.pipeline.model_checks import check_models
from plumbrule.pipeline.plan import Lookups, Planned, make_plan
from plumbrule.pipeline.plan_facts import preview_data
from plumbrule.pipeline.planning.needs import describe_needs
from plumbrule.pipeline.sampler_checks import check_samplers
from plumbrule.report.metric_wording import bounds_text
from plumbrule.report.sweep_table import STOPPED, write_cell
from plumbrule.store.artifacts import Store
from plumbrule.store.file_names import METRIC_ROWS
from plumbrule.store.json_files import write_json
from plumbrule.store.layout import REPORT_PAGE, RUN_RECORD, RUNS, TRACEBACK, store_root
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.trackers import TRACKERS, CommandFacts, NodeFacts, RunTracker
from plumbrule.tracking.wandb_start import check_wandb


class Run:
    """A run that was planned; a `Member` of a merged graph.

    Args: cell: where it is one of a sweep, whose failures then stay in its folder. lookups: of
    runs that are planned together.
    """

    def __init__(
        self,
        composed: Composed,
        overrides: list[str],
        store: Store,
        cell: SweepCell | None = None,
        lookups: Lookups | None = None,
    ):
        self.composed, self.config, self.overrides = composed, composed.config, overrides
        self.store, self.cell = store, cell
        self.runtime = composed.config.runtime
        strict = composed.config.run.versions == "strict"
        self.lookups = lookups or Lookups()
        self.plan = make_plan(composed.nodes, store, strict=strict, lookups=self.lookups)
        self._notes: list[str] | None = None
        self.run_id = new_run_id()
        self.id = f"{self.config.run.name}/{self.run_id}"
        self.folder = store.root / RUNS / self.config.run.name / self.run_id
        self.begun = False
        self.error: BaseException | None = None
        self.objective: float | None = None
        self._began = time.monotonic()
        self._tracker: RunTracker | None = None
        self._recorded = False

    def notes(self) -> list[str]:
        """Return what the plan says of models, samplers, memory and a recipe.

        Raises: ConfigError: a model or a sampler can't be used.
        """
        if self._notes is None:
            self._notes = [
                *check_models(self.plan, dry=self.config.run.dry, lookups=self.lookups),
                *check_samplers(self.plan, self.runtime),
                *describe_needs(self.config, self.plan, CONF, self.lookups),
            ]
        return self._notes

    def print_plan(self) -> dict[str, float | None]:
        """Print the whole plan; return the seconds of what is to be built, by fingerprint.

        Raises: PlumbruleError: what it shows to be wrong.
        """
        rows = preview_data(self.config, self.plan, self.lookups)
        tracked = tracking_line(self.config, self.overrides)
        notes = [*self.notes(), tracked]
        seconds = expected_seconds(self.plan, self.store)
        print_plan(self.composed, self.plan, rows, seconds, notes)
        return {p.fingerprint: seconds[p.node.name] for p in self.plan if p.node.name in seconds}

    def begin(self) -> Path:
        """Return the run's folder; the first call makes it, with a record that says it runs."""
        if not self.begun:
            self.begun = True
            self._began = time.monotonic()
            self.folder.mkdir(parents=True)
            write_json(self.folder / RUN_RECORD, {**self._opening(), "state": "running"})
        return self.folder

    def context(self) -> RunContext:
        """Return what nodes that are built in this process are given; starts the tracker."""
        self.begin()
        if self._tracker is None:
            self._tracker = start_tracker(self.config, self.overrides, self.folder, self.cell)
        return RunContext(self.id, self.folder, self.store, self.runtime, self._tracker)

    def end(self, built: Mapping[str, NodeResult], elsewhere: Sequence[str] = ()) -> None:
        """Write the record and the reports, close the tracker and print the headline metrics."""
        try:
            self._finish(built, elsewhere)
        except Exception as error:  # the boundary of a run: other cells go on
            self.fail(error)

    def _finish(self, built: Mapping[str, NodeResult], elsewhere: Sequence[str]) -> None:
        tracker = self.context().tracker
        for name, result in built.items():
            if name in elsewhere:
                show_stage(result, tracker, self.folder)
            elif result.state in ("cached", "shared"):
                show_curves(result, tracker)
        seconds = time.monotonic() - self._began
        whole = run_record.close(
            self.config,
            self.overrides,
            self.run_id,
            built,
            self.store,
            seconds,
            self.composed.goals,
        )
        whole |= self._zipped()
        run_record.write_reports(whole, built, self.folder)
        write_json(self.folder / RUN_RECORD, whole)
        self._recorded = True
        self._tracker = None
        tracker.finish(whole, self.folder / REPORT_PAGE)
        if self.cell is None:
            finish(whole, self.folder)
        else:
            shown = [*whole["headline"], *filter(None, [self.config.run.objective])]
            done = replace(self.cell.about, run=self.id, metrics=whole["metrics"])
            write_cell(self.cell.folder, replace(done, headline=list(dict.fromkeys(shown))))
        self.objective = objective_of(self.config, whole["metrics"])

    def fail(self, error: BaseException, log: Path | None = None) -> None:
        """Write down what ended the run, or what it waits for, and close its tracker."""
        self.error = error
        if self.cell is not None:
            leave_failure(self.cell, error)
        if not self.begun and isinstance(error, Exception):
            self.begin()
        if not self.begun or self._recorded:
            return
        if error.__cause__ is not None or not isinstance(
            error, PlumbruleError | KeyboardInterrupt | NeedsInput
        ):
            trace = "".join(traceback.format_exception(error))
            (self.folder / TRACEBACK).write_text(trace, encoding="utf-8")
            say(f"traceback: {self.folder / TRACEBACK}")
        try:
            ended = {**self._opening(), **describe_end(error, self.store)}
            if log is not None and log.is_relative_to(self.store.root):
                ended["log"] = str(log.relative_to(self.store.root))
            write_json(self.folder / RUN_RECORD, ended)
        finally:
            tracker, self._tracker = self._tracker, None
            if tracker is not None:
                tracker.finish(None, None, failed=not isinstance(error, NeedsInput | Pruned))

    def _opening(self) -> dict[str, Any]:
        """Return the record of a run that is not done; `planned` keeps its artifacts from `gc`."""
        planned = [f"{one.node.kind}/{one.fingerprint}" for one in self.plan]
        opened = run_record.opening(self.config, self.overrides, self.run_id)
        return {**opened, **self._zipped(), "planned": planned}

    def _zipped(self) -> dict[str, Any]:
        """Return the zipped axes of a cell, for its record."""
        zipped = {} if self.cell is None else dict(self.cell.about.zipped)
        return {"zipped": zipped} if zipped else {}


def plan_run(cfg: DictConfig, overrides: list[str], cell: SweepCell | None = None) -> Run:
    """Return the run of a composed config, planned against its store.

    Raises: PlumbruleError: before a model loads, for what can be known then.
    """
    composed = compose_run(cfg)
    store = Store(store_root(composed.config.run.store))
    if not composed.config.run.dry:
        store.require_writable()
    return Run(composed, overrides, store, cell)


def show_stage(result: NodeResult, tracker: RunTracker, folder: Path) -> None:
    """Tell a run's tracker of a node that another process has built: curves and lineage.

    Args: folder: of the run.
    """
    planned, artifact = result.planned, artifact_of(result)
    node = planned.node
    about = NodeFacts(
        node.name,
        node.kind,
        planned.fingerprint,
        planned.config,
        planned.inputs,
        folder / "nodes" / node.name,
    )
    mirror = tracker.stage(about)
    if mirror is not None:
        if artifact.has(METRIC_ROWS):
            for row in read_metrics(artifact.file(METRIC_ROWS).parent):
                mirror.log({k: v for k, v in row.items() if k != "update"}, row["update"])
        mirror.finish(result.manifest.metrics)
    tracker.published(about)


def objective_of(config: RunConfig, metrics: Mapping[str, float]) -> float | None:
    """Return `metrics[run.objective]`; None: none is set. Raises: DataError: no such metric."""
    objective = config.run.objective
    if objective is None:
        return None
    if objective not in metrics:
        known = ", ".join(sorted(metrics))
        raise DataError(
            f"run.objective (={objective}) must be a metric of this run: {known}; choose one of "
            "them."
        )
    return float(metrics[objective])


def describe_end(error: BaseException, store: Store) -> dict[str, str]:
    """Return what `run.json` says of a run that `error` ended."""
    if isinstance(error, NeedsInput):
        ended = {"state": "waiting", "error": error.what.replace(str(store.root), "<store>")}
        if error.path.is_relative_to(store.root):
            ended["awaits"] = str(error.path.relative_to(store.root))
        return ended
    if isinstance(error, Pruned):
        return {"state": "pruned", "error": str(error)}
    if isinstance(error, KeyboardInterrupt):
        return {"state": "stopped", "error": f"{STOPPED}{describe_stop(error)}"}
    return {"state": "failed", "error": str(error)}


def start_tracker(
    config: RunConfig, overrides: list[str], folder: Path, cell: SweepCell | None
) -> RunTracker:
    """Return the command's tracker, also where it builds nothing: it has metrics and a report."""
    said = [o for o in overrides if not o.lstrip("+").startswith(("run.", "tracking"))]
    words = [o.partition("=")[2] for o in said if o.startswith(("experiment=", "debug="))]
    about = CommandFacts(
        id=f"{config.run.name}-{folder.name}",
        name=" ".join(said) if cell and said else config.run.name,
        group=f"{config.run.name}/{cell.about.sweep}" if cell else "",
        tags=list(dict.fromkeys([config.run.name, *words])),
        folder=folder,
        config=as_json(replace(config, run=replace(config.run, store=None))),
    )
    return TRACKERS[config.tracking.name](config.tracking, about, say)


def builds(plan: Sequence[Planned]) -> bool:
    """Return whether a stage has to run: an artifact that is only copied needs none."""
    return any(planned.state in ("build", "resume") for planned in plan)


def require_ready(config: RunConfig, plan: Sequence[Planned]) -> None:
    """Raise ConfigError if what has to be built lacks its device, or the run can't be tracked."""
    if builds(plan):
        require_device(config.runtime)
    check_wandb(config.tracking)


def new_run_id() -> str:
    """Return the name of a new run: the time in UTC, whatever the time zone, and what tells it from
    others of that second.
    """
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def finish(whole: Mapping[str, Any], folder: Path) -> None:
    """Print the headline metrics with the node that each is of, and where the report lies."""
    metrics = whole["metrics"]
    owners = whole["headline_nodes"]
    width = max((len(owner) for owner in owners.values()), default=0)
    for name in whole["headline"]:
        own = name.removeprefix(f"{owners[name]}:")
        say(f"  {owners[name]:<{width}}  {own:<40} {metrics[name]:.4g}{bounds_text(name, metrics)}")
    for note in whole["notes"]:
        say(f"  note: {note}")
    built = sum(node["state"] in ("built", "resumed") for node in whole["nodes"].values())
    say(
        f"done in {whole['metrics']['time/total_seconds']:.1f} s: {built} built, "
        f"{len(whole['nodes']) - built} cached; report: {folder / REPORT_PAGE}"
    )
