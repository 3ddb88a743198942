"""Trials of a search that are stopped early: who decides, how they end, and what is left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import plumbrule
from omegaconf import OmegaConf

from plumbrule.cli.sweeps.pruning import Pruning, PruningConfig
from plumbrule.cli.sweeps.search import _search, launch_search
from plumbrule.cli.sweeps.search_space import space_of
from plumbrule.cli.sweeps.study import Study
from plumbrule.errors import ConfigError
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import Planned
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import write_jsonl

optuna = pytest.importorskip("optuna")

GAIN, SCORES = "ppo/gold_gain", "objective/scores"


def member(root: Path, fingerprint: str) -> Any:
    """A run of one node that trains."""
    node = Node("ppo", "ppo", {}, None)
    planned = Planned(node, fingerprint, {}, {}, {}, "build", "", {})
    return SimpleNamespace(store=Store(root), plan=[planned])


def log(root: Path, fingerprint: str, values: Sequence[Any], published: bool = False) -> None:
    """Write the rows that a node has logged so far, update 1 first."""
    folder = root / "artifacts" / "ppo" / fingerprint
    folder = folder if published else folder.with_name(f"{fingerprint}.build") / "attempt"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"update": place, SCORES: value} for place, value in enumerate(values, 1)]
    write_jsonl(folder / "metrics.jsonl", rows)


def follow(root: Path, study: Study, cell: int) -> tuple[Any, Pruning, Any]:
    """Ask for a trial of one cell and follow it."""
    (trial,) = study.ask(1)
    pruning = study.follow([trial], 1, cell)
    assert pruning is not None
    run = member(root, f"f{cell}")
    pruning.begin({cell: run})
    return trial, pruning, run


def study_of(config: PruningConfig, sign: int = 1) -> Study:
    space = space_of({"sweeper": {}, "overrides": {"task": ["a=interval(0,1)"]}})
    return Study(None, "random", space, GAIN, sign, 20, config)


def test_a_trial_below_the_median_is_stopped_and_one_above_it_is_not(tmp_path: Path) -> None:
    study = study_of(PruningConfig("median", SCORES, start=2, trials=2))
    for cell, values in enumerate(([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])):
        trial, pruning, _ = follow(tmp_path, study, cell)
        log(tmp_path, f"f{cell}", values, published=True)
        pruning.end()
        study.tell(trial, values[-1])
    trial, pruning, run = follow(tmp_path, study, 2)
    job: Any = None
    log(tmp_path, "f2", [0.5])
    pruning.look()
    assert pruning.why(job, [run]) == ""  # before update 2
    log(tmp_path, "f2", [0.5, 2.9])
    pruning.look()
    # the median at update 2 is 3
    assert pruning.why(job, [run]) == f"{SCORES} 2.9 at update 2 (sweep.pruner=median)"
    study.prune(trial)
    trial, pruning, run = follow(tmp_path, study, 3)
    log(tmp_path, "f3", [0.5, 3.1, "nan", 4.1])  # a row that is no number says nothing
    pruning.look()
    pruning.end()
    assert pruning.pruned(trial) == ""
    study.tell(trial, 4.1)
    states = [one.state.name for one in study.study.get_trials()]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert study.study.get_trials()[2].intermediate_values == {1: 0.5, 2: 2.9}
    assert "3 trials done, 0 failed, 1 pruned; best is trial 1, 5" in study.outcome()


def test_halving_lets_the_best_of_each_rung_go_on(tmp_path: Path) -> None:
    study = study_of(PruningConfig("halving", SCORES, start=1, factor=2))
    gone = []
    for cell, value in enumerate((1.0, 2.0, 0.5, 3.0)):
        trial, pruning, run = follow(tmp_path, study, cell)
        log(tmp_path, f"f{cell}", [value])
        pruning.look()
        if pruning.why(None, [run]):  # type: ignore[arg-type]
            gone.append(cell)
            study.prune(trial)
        else:
            study.tell(trial, value)
    assert gone == [2]  # of those at update 1 so far, in turn: 1 of 1, 2 of 2, lowest of 3, highest


def test_a_metric_that_falls_is_turned_round_where_the_objective_rises(tmp_path: Path) -> None:
    study = study_of(PruningConfig("median", "rm/loss", trials=1))
    trial, pruning, _ = follow(tmp_path, study, 0)
    curve = pruning.curves[0]
    folder = tmp_path / "artifacts" / "ppo" / "f0"
    folder.mkdir(parents=True)
    write_jsonl(folder / "metrics.jsonl", [{"update": 1, "rm/loss": 0.7}])
    pruning.look()
    assert study.study.get_trials()[0].intermediate_values == {1: -0.7}
    assert (curve.newest, pruning.pruned(trial)) == (1, "")


def test_a_job_that_another_trial_needs_too_goes_on(tmp_path: Path) -> None:
    study = study_of(PruningConfig("median", SCORES, trials=1))
    trials = study.ask(2)
    pruning = study.follow(trials, 2, 0)
    assert pruning is not None
    runs = [member(tmp_path, f"f{cell}") for cell in range(4)]
    pruning.begin(dict(enumerate(runs)))
    pruning.curves[0].pruned = "it fell behind"
    job: Any = None
    assert pruning.why(job, runs[:2]) == "it fell behind"  # both seeds of the first trial
    assert pruning.why(job, runs[1:2]) == "it fell behind"
    assert pruning.why(job, runs[1:3]) == ""
    assert pruning.why(job, runs[2:]) == ""


@pytest.mark.parametrize("cached", [True, False])
def test_a_trial_with_a_value_is_done_whatever_the_pruner_wanted(
    tmp_path: Path, cached: bool
) -> None:
    study = study_of(PruningConfig("median", SCORES, start=1, trials=1))
    study.trials = 3
    curves = [[5.0, 5.0, 1.0], [4.0, 4.0, 9.0], [6.0, 6.0, 2.0]]  # the second begins below
    wanted = []

    def launch(cells: Any, initial_job_idx: int, early_stop: Pruning) -> list[Any]:
        number, values = initial_job_idx, curves[initial_job_idx]
        early_stop.begin({number: member(tmp_path, f"f{number}")})
        if not cached:  # a look at its first update; it ends before it could be stopped
            log(tmp_path, f"f{number}", values[:1])
            early_stop.look()
        log(tmp_path, f"f{number}", values, published=True)
        early_stop.look()
        wanted.append(bool(early_stop.curves[0].pruned))
        return [SimpleNamespace(return_value=values[-1])]

    _search(study, launch, 1, False)
    assert wanted == [False, not cached, False]
    trials = study.study.get_trials()
    assert [(one.state.name, one.value) for one in trials] == [
        ("COMPLETE", values[-1]) for values in curves
    ]
    assert all(len(one.intermediate_values) == 3 for one in trials)
    assert "best is trial 1, 9" in study.outcome()


def test_a_trial_of_which_a_cell_was_stopped_is_pruned(tmp_path: Path) -> None:
    study = study_of(PruningConfig("median", SCORES, start=1, trials=1))
    study.trials = 2
    nan = float("nan")

    def launch(cells: Any, initial_job_idx: int, early_stop: Pruning) -> list[Any]:
        early_stop.begin({initial_job_idx: member(tmp_path, f"f{initial_job_idx}")})
        log(tmp_path, f"f{initial_job_idx}", [2.0 - initial_job_idx])
        early_stop.look()
        return [SimpleNamespace(return_value=nan if initial_job_idx else 2.0)]

    _search(study, launch, 1, False)
    assert [one.state.name for one in study.study.get_trials()] == ["COMPLETE", "PRUNED"]


def settings(**more: Any) -> Mapping[str, Any]:
    return {"pruner": "median", "pruner_metric": SCORES, **more}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (settings(pruner="best"), r"sweep.pruner \(=best\) must be one of median, halving"),
        (settings(pruner_metric=None), "sweep.pruner_metric must name a metric of metrics.jsonl"),
        (settings(pruner_start=0), r"sweep.pruner_start \(=0\) must be at least 1"),
        (settings(pruner_trials=0), r"sweep.pruner_trials \(=0\) must be at least 1"),
        (settings(pruner_factor=1), r"sweep.pruner_factor \(=1\) must be at least 2"),
        (settings(pruner_factor="x"), r"sweep.pruner_factor \(=x\) must be a whole number"),
        (settings(pruner=None), r"sweep.pruner_metric \(=.*\) must stand beside sweep.pruner"),
    ],
)
def test_settings_that_can_not_be_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PruningConfig.of(given)
    assert PruningConfig.of({}) is None


def test_another_launcher_can_stop_no_cell(tmp_path: Path) -> None:
    sweeper = {**settings(), "search": "random", "trials": 2}
    hydra = {"sweeper": sweeper, "overrides": {"task": ["a=1,2"]}, "sweep": {"dir": str(tmp_path)}}
    config = OmegaConf.create({"hydra": hydra, "run": {"objective": GAIN, "dry": False}})
    with pytest.raises(
        ConfigError, match=r"sweep.pruner \(=median\) must have hydra/launcher=plum"
    ):
        launch_search(None, config, lambda *cells, **more: [])


TINY = (
    "experiment=rehearsal",
    "debug=fast",
    "run.only=base",
    "tracking=jsonl",
    "runtime.threads=1",
    *("atlas.num_known=16", "atlas.num_after=12", "model.hidden_size=16", "model.num_layers=1"),
    *("base.batch_tokens=64", "base.sequence_tokens=64", "base.optimizer=adamw"),
    *("base.steps=600", "base.save_every=20"),
)
SEARCH = (
    "-m",
    *TINY,
    *("sweep.search=grid", "run.objective=base/loss", "sweep.pruner_start=60"),
    *("sweep.pruner=median", "sweep.pruner_metric=base/train_loss", "sweep.pruner_trials=1"),
)
TWO = ("base.learning_rate=0.003,0.0000001",)
"""A trial that is done, and one that is stopped."""
FOUR = ("base.learning_rate=0.003,0.002,0.0000001,0.0000002", "sweep.at_once=2")
"""Two trials side by side that are done, then two that are stopped."""


@pytest.mark.parametrize(
    ("executor", "workers", "rates"),
    [
        ("serial", 1, TWO),
        pytest.param("local", 1, TWO, marks=pytest.mark.slow),
        pytest.param("submitit_local", 1, TWO, marks=pytest.mark.slow),
        pytest.param("ray", 2, FOUR, marks=pytest.mark.slow),
    ],
)
def test_a_pruned_trial_ends_cleanly_and_can_go_on(
    tmp_path: Path, executor: str, workers: int, rates: Sequence[str]
) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="ray is not here")
    half = 2 if rates is FOUR else 1  # as many trials are done as are stopped
    on = (f"executor={executor}", f"executor.workers={workers}")
    done = plumbrule(tmp_path, *SEARCH, *rates, *on)
    assert done.returncode == 0, done.stderr
    assert f"{half} trials done, 0 failed, {half} pruned; best is trial " in done.stderr
    assert f"trial {half} (base.learning_rate=1e-07): pruned: base/train_loss " in done.stderr
    backend = optuna.storages.journal.JournalFileBackend(
        str(tmp_path / "runs" / "rehearsal" / "sweep" / "study.journal")
    )
    study = optuna.load_study(
        study_name="plumbrule", storage=optuna.storages.JournalStorage(backend)
    )
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * half + ["PRUNED"] * half
    assert all(60 <= max(t.intermediate_values) < 600 for t in study.trials[half:])
    assert len(list(tmp_path.glob("artifacts/base/*/manifest.json"))) == half
    attempts = list(tmp_path.glob("artifacts/base/*.build/*/metrics.jsonl"))
    assert len(attempts) == half
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 600 for path in attempts)
    assert not list(tmp_path.rglob("claim.json"))  # nobody builds any more
    assert not list(tmp_path.rglob("*.begun"))
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/run.json")]
    assert sorted(record["state"] for record in records) == ["done"] * half + ["pruned"] * half
    assert not list(tmp_path.glob("runs/*/sweep/*/failure.json"))
    # gather says so, and that nothing failed
    gathered = plumbrule(tmp_path, "gather", "rehearsal")
    assert gathered.returncode == 0, gathered.stderr
    assert "pruned: base.learning_rate=1e-07 seed=0: base/train_loss" in gathered.stdout
    # and it goes on from its newest checkpoint
    if executor in ("local", "ray"):
        whole = plumbrule(tmp_path, *TINY, "base.learning_rate=1e-07")
        assert whole.returncode == 0, whole.stderr
        assert "base: resuming base/" in whole.stderr


def test_a_dry_plan_says_what_stops_trials(tmp_path: Path) -> None:
    done = plumbrule(tmp_path, *SEARCH, *TWO, "run.dry=true")
    assert done.returncode == 0, done.stderr
    assert (
        "search: grid, 2 trials by the lowest base/loss; pruner: median by base/train_loss of "
        "metrics.jsonl, from update 60 on, once 1 trials are done"
    ) in done.stdout
