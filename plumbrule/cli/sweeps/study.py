"""An Optuna study in a journal beside a sweep's cells, which several commands may share.

Optuna's journal holds the trials. What must be done by one command at a time (to take a trial over
from a command that is gone, to count, to ask) is done under a lock of the file system.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbrule.cli.sweeps.pruning import Pruning, PruningConfig
from plumbrule.cli.sweeps.search_space import Space, grid_points
from plumbrule.errors import ConfigError
from plumbrule.store.claims import NAME, Claim, acquire, is_living, read_owner

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

OWNER, AGAIN, CHOSEN, OBJECTIVE = "owner", "again", "chosen", "objective"
"""Names of what a study notes: whose a trial is, which trial it repeats, what was chosen for it
before it was asked for, and what is sought.
"""


class Study:
    """The trials of a search.

    Args: journal: its file; None: it is kept nowhere. objective: the metric. sign: 1 where it is to
    rise, -1 where it is to fall. trials: how many there are to be in all; None, for grid: all.
    pruning: how trials are stopped early; None: none is.
    Raises: ConfigError: the journal is of another objective or of other values.
    """

    def __init__(
        self,
        journal: Path | None,
        method: str,
        space: Space,
        objective: str,
        sign: int,
        trials: int | None,
        pruning: PruningConfig | None = None,
    ):
        import optuna
        from optuna.pruners import NopPruner
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.objective, self.journal = space, objective, journal
        self.method, self.sign, self.pruning = method, sign, pruning
        self.me = uuid.uuid4().hex
        self.points = grid_points(space) if method == "grid" else None
        known = [trials, None if self.points is None else len(self.points)]
        self.trials = min(count for count in known if count is not None)
        if journal is not None:
            journal.parent.mkdir(parents=True, exist_ok=True)
        storage = None if journal is None else JournalStorage(JournalFileBackend(str(journal)))
        with self._turn():
            self.study = optuna.create_study(
                study_name="plumbrule",
                storage=storage,
                load_if_exists=True,
                direction="maximize" if sign > 0 else "minimize",
                sampler=_sampler(method),
                pruner=NopPruner() if pruning is None else pruning.pruner(),
            )
            self._require_same()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold a claim, by which other commands see that this one's trials go on."""
        claim = acquire(self._commands / self.me, "search") if self._commands else None
        if not isinstance(claim, Claim):  # a study that is kept nowhere; no other has this name
            yield
            return
        with claim:
            yield

    def ask(self, most: int) -> list[Trial]:
        """Return new trials of this command, none when there are as many as there are to be."""
        with self._turn():
            self._take_over()
            found: list[Trial] = []
            while len(found) < most and len(self._counted()) < self.trials:
                if self.points is not None and not self._enqueue_next():
                    break
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of optuna's own experiments
                    trial = self.study.ask(dict(self.space.axes))
                trial.set_user_attr(OWNER, self.me)
                found.append(trial)
            return found

    def tell(self, trial: Trial, value: float) -> None:
        """Note what came of a trial; a value that is no finite number is a failure."""
        from optuna.trial import TrialState

        if math.isfinite(value):
            self.study.tell(trial, value)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def prune(self, trial: Trial) -> None:
        """Note that a trial was stopped early; what it was told of last is its value."""
        from optuna.trial import TrialState

        self.study.tell(trial, state=TrialState.PRUNED)

    def follow(self, trials: Sequence[Trial], cells_each: int, first: int) -> Pruning | None:
        """Return what decides which of these trials are stopped early; None: none is.

        Args: cells_each: of a trial. first: number of the first cell.
        """
        if self.pruning is None:
            return None
        return Pruning(self.pruning, trials, cells_each, first, self.sign)

    def give_back(self, trials: Sequence[Trial | FrozenTrial]) -> None:
        """Let trials that were stopped be asked for again, with what they chose."""
        from optuna.trial import TrialState

        for trial in trials:
            chosen = trial.user_attrs.get(CHOSEN) or dict(trial.params)
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            self.study.enqueue_trial(chosen, {AGAIN: trial.number, CHOSEN: chosen})

    def describe(self) -> str:
        """Return the line that a plan has of the search."""
        end = "highest" if self.sign > 0 else "lowest"
        told = f"search: {self.method}, {self.trials} trials by the {end} {self.objective}"
        cells = len(self.space.cells({}))
        told += f", each the mean of {cells} cells" if cells > 1 else ""
        return told + ("" if self.pruning is None else f"; pruner: {self.pruning}")

    def outcome(self) -> str:
        """Return the line that ends a search: its best trial, and how many failed."""
        from optuna.trial import TrialState

        counted = self._counted()
        states = [trial.state for trial in counted]
        done = [trial for trial in counted if trial.state == TrialState.COMPLETE]
        told = f"{len(done)} trials done, {states.count(TrialState.FAIL)} failed"
        if pruned := states.count(TrialState.PRUNED):
            told += f", {pruned} pruned"
        if running := states.count(TrialState.RUNNING):
            told += f", {running} running elsewhere"
        if not done:
            return f"search by {self.objective}: {told}"
        best = self.study.best_trial
        words = " ".join(self.space.overrides(best.params))
        told += f"; best is trial {best.number}, {best.value:.4g}: {words}"
        return f"search by {self.objective}: {told}"

    def _counted(self) -> list[FrozenTrial]:
        """Return the trials that were asked for, less those that another repeats."""
        from optuna.trial import TrialState

        every = self.study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(AGAIN) for trial in every}
        return [
            trial
            for trial in every
            if trial.state != TrialState.WAITING and trial.number not in repeated
        ]

    def _take_over(self) -> None:
        """Give back the trials of commands that are gone."""
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self.give_back([trial for trial in running if not self._lives(trial)])

    def _lives(self, trial: FrozenTrial) -> bool:
        """Return whether a trial's command is still there. One that was killed before it noted
        itself held the turn, which is this command's now.
        """
        owner = trial.user_attrs.get(OWNER)
        if owner is None or self._commands is None:
            return owner == self.me
        path = self._commands / owner / NAME
        return owner == self.me or is_living(path, read_owner(path))

    @property
    def _commands(self) -> Path | None:
        """Folder of the claims of the commands that share the study."""
        return None if self.journal is None else self.journal.with_suffix(".commands")

    def _enqueue_next(self) -> bool:
        """Let the next point of the grid be asked for; False: none is left."""
        every = self.study.get_trials(deepcopy=False)
        taken = [trial.user_attrs.get(CHOSEN) for trial in every]
        waiting = any(trial.state.name == "WAITING" for trial in every)
        left = [point for point in self.points or [] if point not in taken]
        if left and not waiting:
            self.study.enqueue_trial(left[0], {CHOSEN: left[0]})
        return waiting or bool(left)

    def _require_same(self) -> None:
        """Raise ConfigError if the study that was there sought something else."""
        from optuna.distributions import CategoricalDistribution

        was = self.study.user_attrs.get(OBJECTIVE)
        fix = f"name another, as sweep.study=second; this one lies in {self.journal}"
        if was is None:
            self.study.set_user_attr(OBJECTIVE, self.objective)
        elif was != self.objective:
            raise ConfigError(
                f"run.objective (={self.objective}) must be {was} in this study; {fix}"
            )
        for trial in self.study.get_trials(deepcopy=False):
            for key, axis in trial.distributions.items():
                now = self.space.axes.get(key, axis)
                fixed = CategoricalDistribution in (type(now), type(axis))
                if fixed and now != axis:
                    raise ConfigError(f"{key} must have the values it had in this study; {fix}")

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other commands of this study waiting."""
        if self.journal is None:
            yield
            return
        with open(self.journal.with_suffix(".turn"), "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it when the command ends
            yield


def _sampler(method: str) -> Any:
    from optuna import samplers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "grid": samplers.RandomSampler,  # its points are enqueued
            "random": samplers.RandomSampler,
            "tpe": samplers.TPESampler,
            "gp": samplers.GPSampler,
        }[method]()
