"""Stopping trials of a search early: their curves, as they grow, held against those of others.

Optuna's pruners decide (the median of Golovin et al. 2017, Google Vizier, section 3.2, and
asynchronous successive halving, Li et al. 2020, arXiv:1810.05934). What they are told is a metric
of `metrics.jsonl` at each update, of the trial's first cell: every trial has the same seeds and
folds in the same order, so like is held against like, whether cells are built side by side or one
after the other. A trial that is stopped leaves its checkpoints; its other cells are stopped or not
begun. The rows of a node that is published are told and stop nothing: there is no training left to
save, and what it cost is spent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plumbrule.cli.sweeps.words import require_count
from plumbrule.config import require, require_range
from plumbrule.errors import ConfigError
from plumbrule.pipeline.executors.merged_graph import Job, Member
from plumbrule.pipeline.plan import Planned
from plumbrule.report.metric_wording import direction
from plumbrule.store.claims import BUILD
from plumbrule.store.file_names import METRIC_ROWS
from plumbrule.store.metric_rows import read_metrics

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

PRUNERS = ("median", "halving")
LEFT_OUT = ("data",)
"""Kinds of nodes whose rows tell of no training."""


@dataclass(frozen=True)
class PruningConfig:
    """How trials are stopped early: settings `sweep.pruner` and `sweep.pruner_<name>`."""

    name: str
    """median: a trial whose best value so far is worse than the median of others at that update;
    halving: all but the best 1/factor at each of a series of updates."""
    metric: str
    """In the rows of `metrics.jsonl` of the last node of a run that logs it; `ppo:<metric>` names
    the node."""
    start: int = 1
    """Updates before which no trial is stopped; with halving the first update at which it is."""
    trials: int = 5
    """Of median: trials that must be done before one is stopped."""
    factor: int = 4
    """Of halving: one in so many goes on; the next look is at so many times as many updates."""

    def __post_init__(self) -> None:
        require(
            self.name in PRUNERS,
            "sweep.pruner",
            self.name,
            f"be one of {', '.join(PRUNERS)}",
            "change it",
        )
        for setting, least in (("start", 1), ("trials", 1), ("factor", 2)):
            value = getattr(self, setting)
            require_count(f"pruner_{setting}", value)
            require_range(f"sweep.pruner_{setting}", value, least)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> PruningConfig | None:
        """Return what a sweep's settings say; None: no trial is stopped.

        Raises: ConfigError: a setting out of range, or one without `sweep.pruner`.
        """
        own = {name: settings.get(f"pruner_{name}") for name in cls.__dataclass_fields__}
        given = {name: value for name, value in own.items() if value is not None}
        if settings.get("pruner") is None:
            for name, value in given.items():
                raise ConfigError(
                    f"sweep.pruner_{name} (={value}) must stand beside sweep.pruner; add "
                    "sweep.pruner=median, or take it out."
                )
            return None
        if "metric" not in given:
            raise ConfigError(
                f"sweep.pruner_metric must name a metric of metrics.jsonl for "
                f"sweep.pruner={settings['pruner']}; add sweep.pruner_metric=objective/scores."
            )
        return cls(str(settings["pruner"]), **given)

    def __str__(self) -> str:
        """Return it as the plan says it."""
        rest = (
            f"from update {self.start} on, once {self.trials} trials are done"
            if self.name == "median"
            else f"at update {self.start} and {self.factor} times as many each, 1 in {self.factor} "
            "goes on"
        )
        return f"{self.name} by {self.metric} of metrics.jsonl, {rest}"

    def pruner(self) -> BasePruner:
        """Return Optuna's."""
        from optuna.pruners import MedianPruner, SuccessiveHalvingPruner

        if self.name == "median":
            return MedianPruner(n_startup_trials=self.trials, n_warmup_steps=self.start)
        return SuccessiveHalvingPruner(min_resource=self.start, reduction_factor=self.factor)


@dataclass
class TrialCurve:
    """What the pruner knows of a trial. newest: the last update that it was told of."""

    trial: Trial
    member: Member | None = None
    newest: int = 0
    node: Planned | None = None
    """Whose rows are followed; None: no node has logged the metric yet."""
    published: bool = False
    """Whether the newest rows are those of a node that is published."""
    seen: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Size and time of the files that were read."""
    pruned: str = ""
    """Why it is stopped; "": it is not."""


class TrialRow(NamedTuple):
    """A row of a node that has the metric."""

    update: int
    value: float


class Pruning:
    """Decides for the trials that are one graph; an `EarlyStop`.

    Args: cells_each: of a trial. first: number of the first cell. sign: 1 where the study's
    objective is to rise, -1 where it is to fall; the metric is turned round where it differs.
    """

    def __init__(
        self,
        config: PruningConfig,
        trials: Sequence[Trial],
        cells_each: int,
        first: int,
        sign: int,
    ):
        self.config, self._cells_each, self._first = config, cells_each, first
        self._node, _, self._metric = config.metric.rpartition(":")
        self._sign = sign * (direction(self._metric) or sign)
        self.curves = [TrialCurve(trial) for trial in trials]
        self._numbers: dict[int, int] = {}

    def begin(self, members: Mapping[int, Member]) -> None:
        """Take the runs of the graph. Args: members: number of a cell -> its run."""
        for place, curve in enumerate(self.curves):
            curve.member = members.get(self._first + place * self._cells_each)
        self._numbers = {id(member): number for number, member in members.items()}

    def look(self) -> None:
        """Tell the pruner what there is to tell, and ask it."""
        for curve in self.curves:
            for row in () if curve.pruned else self._new_rows(curve):
                if self._would_prune(curve, row) and not curve.published:
                    what = f"{self._metric} {row.value:.4g} at update {row.update}"
                    curve.pruned = f"{what} (sweep.pruner={self.config.name})"
                    break

    def end(self) -> None:
        """Tell the pruner what trials have logged since the last look; later ones are held against
        it.
        """
        for curve in self.curves:
            for row in self._new_rows(curve):
                self._would_prune(curve, row)

    def why(self, job: Job, users: Sequence[Member]) -> str:
        """Return why a job is to be stopped: all runs that need it are of stopped trials.

        "": it goes on.
        """
        reasons = [self._curve_of(member).pruned for member in users]
        return reasons[0] if reasons and all(reasons) else ""

    def pruned(self, trial: Trial) -> str:
        """Return why a trial was stopped; "": it was not."""
        return next((c.pruned for c in self.curves if c.trial.number == trial.number), "")

    def _curve_of(self, member: Member) -> TrialCurve:
        number = self._numbers[id(member)]
        return self.curves[(number - self._first) // self._cells_each]

    def _would_prune(self, curve: TrialCurve, row: TrialRow) -> bool:
        """Report a row and return whether the pruner wants the trial stopped."""
        curve.newest = row.update
        curve.trial.report(self._sign * row.value, row.update)
        return curve.trial.should_prune()

    def _new_rows(self, curve: TrialCurve) -> list[TrialRow]:
        """Return the rows of a trial that were not reported."""
        if curve.member is None:
            return []
        store = curve.member.store
        for planned in [curve.node] if curve.node else reversed(curve.member.plan):
            if planned.node.kind in LEFT_OUT or self._node not in ("", planned.node.name):
                continue
            folder = store.folder(planned.node.kind, planned.fingerprint)
            attempts = folder.with_name(folder.name + BUILD).glob(f"*/{METRIC_ROWS}")
            for path in (folder / METRIC_ROWS, *sorted(attempts)):
                if rows := self._rows_in(curve, path):
                    curve.node, curve.published = planned, path.parent == folder
                    return [row for row in rows if row.update > curve.newest]
        return []

    def _rows_in(self, curve: TrialCurve, path: Path) -> list[TrialRow]:
        """Return the rows of a file with the metric; none where it is as it was."""
        try:
            about = path.stat()
        except OSError:
            return []
        now = (about.st_size, about.st_mtime_ns)
        if curve.seen.get(path) == now:
            return []
        curve.seen[path] = now
        found = [(row["update"], row.get(self._metric)) for row in read_metrics(path.parent)]
        return [
            TrialRow(update, float(value))
            for update, value in found
            if isinstance(value, int | float) and math.isfinite(value)
        ]
