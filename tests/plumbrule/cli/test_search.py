"""Searches with Optuna: what is chosen from, one study of several commands, and failed trials."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from plumbrule.cli.sweeps.search import launch_search
from plumbrule.cli.sweeps.search_space import grid_points, space_of
from plumbrule.cli.sweeps.study import Study
from plumbrule.errors import ConfigError

optuna = pytest.importorskip("optuna")

GAIN = "ppo/gold_gain"


def sweep(folder: Path, *task: str, run: Any = None, **sweeper: Any) -> DictConfig:
    """Return as much of a sweep's config as a search reads."""
    hydra = {"sweeper": sweeper, "overrides": {"task": list(task)}, "sweep": {"dir": str(folder)}}
    return OmegaConf.create({"hydra": hydra, "run": run or {"objective": GAIN, "dry": False}})


def launcher(gain: Callable[[dict[str, str]], float], seen: list[dict[str, str]]) -> Any:
    """Return a launcher whose cells are done at once and come to `gain` of their overrides."""

    def launch(cells: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        words = [dict(word.split("=", 1) for word in cell) for cell in cells]
        seen.extend(words)
        return [SimpleNamespace(return_value=gain(own)) for own in words]

    return launch


def trials_of(folder: Path, name: str = "study") -> list[Any]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / f"{name}.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="plumbrule", storage=storage).trials


def hill(own: dict[str, str]) -> float:
    """Highest, 0, at a = 0.3."""
    return 0.0 - (float(own["a"]) - 0.3) ** 2


def test_values_are_what_optuna_takes() -> None:
    words = ["a=tag(log,interval(1e-6,1e-4))", "b=int(interval(1,8))", "c=x,y", "d=range(2,9,3)"]
    sweeper = {"zip": {"scale": "e=1,2; f=3,4"}}
    space = space_of({"sweeper": sweeper, "overrides": {"task": [*words, "seed=0,1", "g=7"]}})
    kinds = {
        key: type(axis).__name__.removesuffix("Distribution") for key, axis in space.axes.items()
    }
    assert kinds == {
        "scale": "Categorical",
        "a": "Float",
        "b": "Int",
        "c": "Categorical",
        "d": "Int",
    }
    assert (space.axes["a"].low, space.axes["a"].high, space.axes["a"].log) == (1e-6, 1e-4, True)
    assert (space.axes["d"].low, space.axes["d"].high, space.axes["d"].step) == (2, 8, 3)
    chosen = {"scale": "2/4", "a": 1.23456789e-5, "b": 3, "c": "y", "d": 5}
    own = ["g=7", "e=2", "f=4", "a=1.23457e-05", "b=3", "c=y", "d=5"]
    assert space.cells(chosen) == [[*own, "seed=0"], [*own, "seed=1"]]
    folds = space_of({"sweeper": {}, "overrides": {"task": ["a=1,2", "fold=range(2)", "seed=0,1"]}})
    assert [cell[1:] for cell in folds.cells({"a": 1})] == [
        [f"fold={fold}", f"seed={seed}"] for fold in (0, 1) for seed in (0, 1)
    ]
    with pytest.raises(ConfigError, match=r"a must list its values for sweep.search=grid"):
        grid_points(space)


@pytest.mark.parametrize("method", ["random", "tpe", "gp"])
def test_a_search_has_its_trials_and_ends_near_the_top(tmp_path: Path, method: str) -> None:
    seen: list[dict[str, str]] = []
    config = sweep(tmp_path, "a=interval(0,1)", search=method, trials=25)
    launch_search(None, config, launcher(hill, seen))
    assert len(seen) == len(trials_of(tmp_path)) == 25
    assert max(map(hill, seen)) > -0.02  # 25 uniform values are all farther in 1 of 3,000 searches
    launch_search(None, config, launcher(hill, seen))  # the same command: nothing is missing
    assert len(seen) == 25


def test_a_grid_is_every_combination_once(tmp_path: Path, capsys) -> None:
    seen: list[dict[str, str]] = []
    config = sweep(tmp_path, "a=0.1,0.3,0.9", "b=range(0,2)", search="grid", max_batch_size=4)
    launch_search(None, config, launcher(hill, seen))
    found = [(own["a"], own["b"]) for own in seen]
    assert found == [(a, b) for a in ("0.1", "0.3", "0.9") for b in "01"]
    said = capsys.readouterr().err
    assert f"search by {GAIN}: 6 trials done, 0 failed; best is trial 2, 0: a=0.3 b=0" in said


def test_nan_or_a_failed_seed_is_a_failed_trial_and_others_follow(tmp_path: Path, capsys) -> None:
    def gain(own: dict[str, str]) -> float:
        return math.nan if own["a"] == "1" and own["seed"] == "1" else float(own["a"])

    seen: list[dict[str, str]] = []
    config = sweep(tmp_path, "a=1,2,3", "seed=0,1", search="grid")
    launch_search(None, config, launcher(gain, seen))
    assert len(seen) == 6
    trials = trials_of(tmp_path)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [trial.value for trial in trials] == [None, 2.0, 3.0]
    assert "2 trials done, 1 failed; best is trial 2, 3: a=3" in capsys.readouterr().err


def test_values_that_no_run_can_have_fail_their_trial_until_it_is_not_the_values(
    tmp_path: Path,
) -> None:
    seen: list[dict[str, str]] = []
    inner = launcher(lambda own: 1.0, seen)

    def launch(cells: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        if any("a=2" in cell for cell in cells):
            raise ConfigError("a (=2) must be odd; change it.")
        return inner(cells, initial_job_idx)

    config = sweep(tmp_path / "1", "a=1,2,3", search="grid", max_batch_size=3)
    launch_search(None, config, launch)
    assert [own["a"] for own in seen] == ["1", "3"]
    assert [t.state.name for t in trials_of(tmp_path / "1")] == ["COMPLETE", "FAIL", "COMPLETE"]
    config = sweep(tmp_path / "2", "a=2", "b=interval(0,1)", search="random", trials=50)
    with pytest.raises(ConfigError, match=r"5 trials in a row can't run; the last: a \(=2\)"):
        launch_search(None, config, launch)


def test_commands_share_one_study_and_have_no_trial_too_many(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []
    ended: list[int] = []

    def command() -> None:
        config = sweep(tmp_path, "a=range(0,12)", "b=1", search="grid")
        ended.append(len(launch_search(None, config, launcher(lambda own: float(own["a"]), seen))))

    threads = [threading.Thread(target=command) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(int(own["a"]) for own in seen) == list(range(12))
    assert sum(ended) == len(trials_of(tmp_path)) == 12
    assert not list(tmp_path.rglob("claim.json"))


def test_a_trial_that_was_stopped_is_asked_for_again(tmp_path: Path) -> None:
    stopped: list[Any] = []

    def stop(cells: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        stopped.extend(cells)
        raise KeyboardInterrupt

    config = sweep(tmp_path, "a=interval(0,1)", search="random", trials=2)
    with pytest.raises(KeyboardInterrupt):
        launch_search(None, config, stop)
    seen: list[dict[str, str]] = []
    launch_search(None, config, launcher(hill, seen))
    assert f"a={seen[0]['a']}" == stopped[0][0]
    assert len(seen) == 2


def test_a_trial_of_a_command_that_was_killed_is_asked_for_again(tmp_path: Path) -> None:
    space = space_of({"sweeper": {}, "overrides": {"task": ["a=interval(0,1)"]}})
    killed = Study(tmp_path / "study.journal", "random", space, GAIN, 1, 2)
    (trial,) = killed.ask(1)  # it holds no claim, as a command that is gone
    seen: list[dict[str, str]] = []
    config = sweep(tmp_path, "a=interval(0,1)", search="random", trials=2)
    launch_search(None, config, launcher(hill, seen))
    assert float(seen[0]["a"]) == pytest.approx(trial.params["a"], rel=1e-5)
    assert len(seen) == 2
    alive = Study(tmp_path / "study.journal", "random", space, GAIN, 1, 4)
    with alive.at_work():
        alive.ask(1)
        launch_search(
            None,
            sweep(tmp_path, "a=interval(0,1)", search="random", trials=4),
            launcher(hill, seen),
        )
    assert len(seen) == 3  # the fourth is the other's, which is alive


@pytest.mark.parametrize(
    ("words", "sweeper", "says"),
    [
        (["a=1,2"], {"search": "bayes"}, "must be one of grid, random, tpe, gp"),
        (["a=1,2"], {"search": "tpe"}, "sweep.trials must be set for sweep.search=tpe"),
        (["a=1,2"], {"search": "tpe", "trials": 0}, r"sweep.trials \(=0\) must be at least 1"),
        (["a=1,2"], {"search": "tpe", "trials": "x"}, "must be a whole number"),
        (["a=1"], {"search": "grid"}, "must have something to choose"),
        (["seed=1,2"], {"search": "grid"}, "must have something to choose"),
        (["a=interval(2,1)"], {"search": "tpe", "trials": 1}, "must rise"),
        (["a=tag(log,interval(0,1))"], {"search": "tpe", "trials": 1}, "must lie above 0"),
        (["a=1,2"], {"search": "grid", "study": "../x"}, "must be a file name"),
        (["a=1,2", "b=1"], {"search": "grid", "zip": {"s": "b=1,2; c=1,2"}}, "b must not stand in"),
    ],
)
def test_a_search_that_can_not_be_is_refused(
    tmp_path: Path, words: list[str], sweeper: dict, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        launch_search(None, sweep(tmp_path, *words, **sweeper), launcher(hill, []))
    assert not list(tmp_path.iterdir())


def test_a_search_must_know_what_for(tmp_path: Path) -> None:
    nothing = {"objective": None, "dry": False}
    with pytest.raises(ConfigError, match=r"must name a metric for sweep.search=grid"):
        launch_search(
            None, sweep(tmp_path, "a=1,2", run=nothing, search="grid"), launcher(hill, [])
        )


def test_a_study_keeps_to_its_objective_and_its_values(tmp_path: Path) -> None:
    launch_search(None, sweep(tmp_path, "a=1,2", search="grid"), launcher(hill, []))
    other = sweep(tmp_path, "a=1,2", "run.objective=objective/kl", search="grid")
    with pytest.raises(ConfigError, match=f"must be {GAIN} in this study; name another"):
        launch_search(None, other, launcher(hill, []))
    with pytest.raises(ConfigError, match="a must have the values it had in this study"):
        launch_search(None, sweep(tmp_path, "a=1,2,3", search="grid"), launcher(hill, []))
    second = sweep(tmp_path, "a=1,2,3", search="grid", study="second")
    launch_search(None, second, launcher(hill, []))
    assert len(trials_of(tmp_path, "second")) == 3


def test_a_dry_search_shows_its_first_trial_and_keeps_nothing(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []
    dry = {"objective": GAIN, "dry": True}
    config = sweep(tmp_path, "a=interval(0,1)", run=dry, search="tpe", trials=9)
    launch_search(None, config, launcher(hill, seen))
    assert len(seen) == 1
    assert not list(tmp_path.iterdir())


def test_what_falls_is_sought_low(tmp_path: Path, capsys) -> None:
    config = sweep(tmp_path, "a=3,1,2", "run.objective=rm/loss", search="grid")
    launch_search(None, config, launcher(lambda own: float(own["a"]), []))
    assert "best is trial 1, 1: a=1" in capsys.readouterr().err
