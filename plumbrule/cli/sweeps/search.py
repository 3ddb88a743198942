"""A search: Optuna chooses the cells of a sweep by what `run.objective` of earlier ones was.

Trials are asked for, launched as one graph, and told, until the study has as many as it is to have.
A trial that fails, or whose values no run can have, is a failed one of the study, and one that a
pruner stops a pruned one; others follow. One whose cells all have a value is done, whatever the
pruner wanted meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from plumbrule.cli.messages import say
from plumbrule.cli.sweeps.grid import Launch
from plumbrule.cli.sweeps.pruning import PruningConfig
from plumbrule.cli.sweeps.words import require_count
from plumbrule.errors import ConfigError
from plumbrule.report.metric_wording import direction

if TYPE_CHECKING:
    from optuna.trial import Trial

    from plumbrule.cli.sweeps.study import Study

METHODS = ("grid", "random", "tpe", "gp")
MOST_REFUSED = 5
"""Trials in a row whose values no run can have: then it is not the values."""


def launch_search(
    loader: Any, config: DictConfig, launch: Launch, can_stop: bool = False
) -> list[Any]:
    """Carry out a search and return what the launcher gave back for each batch of trials.

    Args: config: of the sweep. launch: of a launcher. can_stop: whether that takes `early_stop`.
    Raises: ConfigError: settings that can't be, or cells that can't, whatever is chosen.
    HydraException: a word can't be read.
    """
    hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
    settings = hydra["sweeper"]
    method = _method(settings)
    from plumbrule.cli.sweeps.search_space import space_of
    from plumbrule.cli.sweeps.study import Study

    space = space_of(hydra, loader)
    said = [w.partition("=")[2] for w in space.fixed if w.startswith("run.objective=")]
    objective = said[-1] if said else config.run.objective
    if objective is None:
        raise ConfigError(
            f"run.objective (=null) must name a metric for sweep.search={method}; add "
            "run.objective=ppo/gold_gain, or another metric that these runs have."
        )
    name, folder = settings.get("study") or "study", Path(config.hydra.sweep.dir)
    if Path(name).name != name:
        raise ConfigError(f"sweep.study (={name}) must be a file name without folders.")
    dry = bool(config.run.dry)
    journal = None if dry else folder / f"{name}.journal"
    sign = direction(objective) or 1
    pruning = PruningConfig.of(settings)
    if pruning is not None and not can_stop:
        raise ConfigError(
            f"sweep.pruner (={pruning.name}) must have hydra/launcher=plumbrule, which can stop a "
            "cell; leave hydra/launcher out."
        )
    study = Study(journal, method, space, objective, sign, settings.get("trials"), pruning)
    with study.at_work():
        return _search(study, launch, settings.get("max_batch_size") or 1, dry)


def _search(study: Study, launch: Launch, at_once: int, dry: bool) -> list[Any]:
    """Ask, launch and tell until the study has its trials; dry: the first trials alone."""
    returned: list[Any] = []
    refused: list[str] = []
    if dry:
        print(study.describe(), flush=True)
    while trials := study.ask(at_once):
        if dry:
            cells = [cell for trial in trials for cell in study.space.cells(trial.params)]
            return [launch(cells, initial_job_idx=0)]
        for why in _carry_out(study, trials, launch, returned):
            refused = [*refused, why] if why else []
        if len(refused) >= MOST_REFUSED:
            raise ConfigError(f"{len(refused)} trials in a row can't run; the last: {refused[-1]}")
    say(study.outcome())
    return returned


def _carry_out(
    study: Study, trials: Sequence[Trial], launch: Launch, returned: list[Any]
) -> list[str]:
    """Launch trials and tell the study what came of each.

    Return for each why no run can have its values, "" where one can.
    """
    cells = [study.space.cells(trial.params) for trial in trials]
    first = trials[0].number * len(cells[0])
    pruning = study.follow(trials, len(cells[0]), first)
    more = {} if pruning is None else {"early_stop": pruning}
    try:
        given = launch([cell for own in cells for cell in own], initial_job_idx=first, **more)
    except ConfigError as error:
        if len(trials) > 1:
            return [why for trial in trials for why in _carry_out(study, [trial], launch, returned)]
        study.tell(trials[0], float("nan"))
        say(f"trial {trials[0].number} failed: {error}")
        return [str(error)]
    except BaseException:
        study.give_back(trials)
        raise
    returned.append(given)
    values = [_value(one) for one in given]
    if pruning is not None:
        pruning.end()
    for place, trial in enumerate(trials):
        own = values[place * len(cells[0]) :][: len(cells[0])]
        words = " ".join(study.space.overrides(trial.params))
        why = "" if pruning is None else pruning.pruned(trial)
        if why and not all(map(math.isfinite, own)):
            study.prune(trial)
            say(f"trial {trial.number} ({words}): pruned: {why}")
            continue
        study.tell(trial, fmean(own))
        say(f"trial {trial.number} ({words}): {study.objective} {fmean(own):.4g}")
    return ["" for _ in trials]


def _value(given: Any) -> float:
    """Return what a launcher says of a cell; NaN of one that failed."""
    try:
        value = given.return_value
    except Exception:  # the boundary of a sweep cell: launchers hand on whatever ended it
        return float("nan")
    return float("nan") if value is None else float(value)


def _method(settings: Mapping[str, Any]) -> str:
    """Return how a search chooses. Raises: ConfigError: its settings can't be."""
    method, trials = str(settings["search"]), settings.get("trials")
    if method not in METHODS:
        raise ConfigError(
            f"sweep.search (={method}) must be one of {', '.join(METHODS)}; change it."
        )
    if find_spec("optuna") is None:
        raise ConfigError(
            f"sweep.search (={method}) must have Optuna; pip install 'plumbrule[sweep]'."
        )
    if trials is None and method != "grid":
        raise ConfigError(
            f"sweep.trials must be set for sweep.search={method}; add sweep.trials=20."
        )
    require_count("trials", trials)
    require_count("at_once", settings.get("max_batch_size"))
    return method
