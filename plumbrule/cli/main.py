"""The command line: `plumbrule [verb] ...`.

A first word that is a verb is parsed with argparse (`plumbrule/cli/verbs/`); everything else is
Hydra's: overrides, `--cfg job`, `--multirun`. One run composes a config, plans its graph, prints
the plan, resolves or builds each node, and leaves `runs/<name>/<stamp>-<id>/` with `run.json`,
`report.html` and `report.md`. Nothing here imports torch; a run whose nodes are all cached never
does.

Exit codes: 0 done, 1 a stage failed, 2 a setting or input is wrong, 3 a person must do something
first (the message says what; the same command then goes on), 130 stopped by Ctrl-C, 143 by SIGTERM;
both leave the run's state written, its claim released and its W&B run closed.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli import completion, help_page, verbs
from plumbrule.cli.composition import (
    CONF,
    SWEEP_FOLDERS,
    VERSION_BASE,
    group_options,
    register,
    require_recipes,
)
from plumbrule.cli.explain import MULTIRUN, explain, unknown_option
from plumbrule.cli.messages import explain_permission, say
from plumbrule.cli.progress_table import start_table
from plumbrule.cli.runs import Run, new_run_id, plan_run, require_ready
from plumbrule.cli.submitted import COMMAND_LOG, take_log
from plumbrule.cli.sweeps.cell_files import SWEEP, SweepCell, forget_earlier, leave_failure
from plumbrule.cli.sweeps.command import check_cells, end_sweep, note_folder
from plumbrule.cli.sweeps.words import sweeper_words
from plumbrule.errors import ConfigError, NeedsInput, PlumbruleError, Terminated, TrainingError
from plumbrule.pipeline import plugins
from plumbrule.pipeline.data_sources import model_words
from plumbrule.pipeline.executors.carry_out import carry_out
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.report.sweep_table import Cell
from plumbrule.surroundings import prepare_streams


def main() -> None:
    """Run the command line and exit."""
    prepare_streams()
    signal.signal(signal.SIGTERM, _terminate)
    if completion.is_asked(sys.argv[1:]):
        register()
        completion.answer(verbs.VERBS, _hydra_main)
        sys.exit(0)
    code = _guarded(_load_plugins)
    if code:
        sys.exit(code)
    if (answered := _answered(sys.argv[1:])) is not None:
        sys.exit(answered)
    register()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv[1:] = ["-m" if word == "hydra.mode=MULTIRUN" else word for word in sys.argv[1:]]
    if code := _guarded(_take_sweep_words):
        sys.exit(code)
    words = model_words(sys.argv[1:], group_options("model"))
    sys.argv[1:] = sorted(words, key=lambda word: word not in MULTIRUN)  # Hydra wants it first
    if not set(sys.argv[1:]) & set(MULTIRUN):
        if code := _guarded(lambda: require_recipes(sys.argv[1:])):
            sys.exit(code)
        sys.exit(_guarded(lambda: _compose_and_run(sys.argv[1:])))
    others = any(word.startswith("hydra/launcher=") for word in sys.argv[1:])
    if others and (code := _guarded(lambda: check_cells(sys.argv[1:]))):  # ours does it by itself
        sys.exit(code)
    sweep = os.environ[SWEEP] = new_run_id()
    with tempfile.TemporaryDirectory(prefix="plumbrule-sweep-") as noted:
        os.environ[SWEEP_FOLDERS] = noted
        code = _guarded(lambda: _compose_and_run(sys.argv[1:]))
        ended = _guarded(lambda: end_sweep(sweep, Path(noted)))
    sys.exit(code or ended)


def _terminate(number: int, frame: Any) -> None:
    """Raise Terminated at the first SIGTERM; further ones must not stop the tidying up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Python takes a handler back while it exits
    raise Terminated


def _answered(words: list[str]) -> int | None:
    """Return the exit code of what needs no config: help, version, a verb; None for the rest."""
    first = words[0] if words else ""
    if first in ("-h", "--help", "help"):
        print(help_page.page(verbs.VERBS, CONF, RunConfig))
        return 0
    if "--version" in words:
        print(help_page.version())
        return 0
    if first in verbs.VERBS:
        return _guarded(lambda: verbs.main(words), resumable=False)
    if first and not set(first) & set("=-+~/"):
        close = difflib.get_close_matches(first, verbs.VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else "see plumbrule --help."
        known = ", ".join(verbs.VERBS)
        say(f"error: {first} must be a verb ({known}) or setting=value; {hint}")
        return 2
    if (wrong := unknown_option(words)) is not None:
        say(f"error: {wrong}")
        return 2
    return None


def _load_plugins() -> None:
    sys.argv[1:] = plugins.take_options(sys.argv[1:])
    plugins.load()


def _take_sweep_words() -> None:
    sys.argv[1:] = sweeper_words(sys.argv[1:])


def _guarded(command: Callable[[], Any], resumable: bool = True) -> int:
    """Run `command`, print a user's error as one line, and return the exit code.

    resumable: whether a command that is stopped goes on from its checkpoints.
    """
    try:
        command()
        return 0
    except TrainingError as error:
        say(f"error: {error}")
        return 1
    except PlumbruleError as error:
        say(f"error: {error}")
        return 2
    except NeedsInput as wanted:
        say(str(wanted))
        say("Run the same command again when it is there.")
        return 3
    except (HydraException, OmegaConfBaseException) as error:
        say(f"error: {explain(error, sys.argv[1:])}")
        return 2
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        group = next((a.split("=")[0] for a in sys.argv[1:] if a.endswith("=null")), "group")
        say(f"error: {group} (=null) must name a file of conf/{group}; ~{group} leaves it out.")
        return 2
    except PermissionError as error:
        say(f"error: {explain_permission(error)}")
        return 2
    except BrokenPipeError:  # `plumbrule show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stopped:
        goes_on = "; the same command goes on from the newest checkpoint" if resumable else ""
        say(f"stopped{goes_on}.")
        return 143 if isinstance(stopped, Terminated) else 130


def _compose_and_run(words: list[str]) -> None:
    """Compose and run one config, or a sweep, as `_hydra_main` does.

    That composes the config a first time only to learn which of them it is. Other options than
    `-m` are left to it.
    """
    overrides = [word for word in words if word not in MULTIRUN]
    if any(word.startswith("-") or "hydra.mode" in word for word in overrides):
        _hydra_main()
        return
    with initialize_config_dir(str(CONF), job_name="main", **VERSION_BASE):
        ours: Any = GlobalHydra.instance().hydra
        task = inspect.unwrap(_hydra_main)
        if len(overrides) == len(words):
            try:
                ours.run("config", task, overrides)
            except (AssertionError, ConfigCompositionException) as error:
                if isinstance(error, AssertionError):  # Hydra 1.3 asserts, without words
                    is_set_by_file = ours.get_mode("config", overrides) == RunMode.MULTIRUN
                else:  # Hydra 1.4 says so
                    is_set_by_file = str(error).startswith("hydra.mode changed")
                if not is_set_by_file:
                    raise
                raise ConfigError(
                    "hydra.mode (=MULTIRUN) must be asked for by the command and not by a file; "
                    "take it out of the file and add -m."
                ) from None
        else:
            ours.multirun("config", task, [*overrides, "hydra.mode=MULTIRUN"])


@hydra.main(config_path=str(CONF), config_name="config", **VERSION_BASE)
def _hydra_main(cfg: DictConfig) -> float | None:
    """Run one composed config; in a sweep, a cell that fails leaves `failure.json`.

    Cells come here from launchers other than ours. Outside a sweep errors leave as SystemExit:
    Hydra would print lines of its own around any other.
    """
    from hydra.core.hydra_config import HydraConfig

    job = HydraConfig.get()
    overrides = [str(o) for o in job.overrides.task]
    if job.mode != RunMode.MULTIRUN:
        sys.exit(_guarded(lambda: run(cfg, overrides)))
    folder = Path(job.runtime.output_dir)
    about = Cell(
        os.environ.get(SWEEP, ""),
        int(job.job.num),
        overrides,
        cfg.run.objective,
        fold=cfg.fold,
        folds=cfg.folds,
    )
    if not cfg.run.dry:  # a dry sweep may have been given the folder of another
        forget_earlier(folder)
    note_folder(folder.parent)
    print(f"cell {' '.join(overrides)}")
    cell = SweepCell(about, folder)
    planned: Run | None = None
    try:
        planned = plan_run(cfg, overrides, cell)
        carry(planned)
    except BaseException as error:  # the boundary of a sweep cell: the other cells go on
        if planned is None or planned.error is None:
            leave_failure(cell, error)
        if not isinstance(error, Exception):
            raise
        return float("nan")
    return float("nan") if planned.error is not None else planned.objective


def run(cfg: DictConfig, overrides: list[str]) -> None:
    """Plan and build one config and write its record.

    Raises: PlumbruleError: before a model loads, for what can be known then. NeedsInput.
    """
    planned = plan_run(cfg, overrides)
    carry(planned)
    if planned.error is not None:
        raise planned.error


def carry(planned: Run) -> None:
    """Print a run's plan and carry it out; what fails then is its `error`."""
    seconds = planned.print_plan()
    require_ready(planned.config, planned.plan)
    if planned.config.run.dry:
        return
    planned.begin()
    if planned.cell is None:
        take_log(planned.folder / COMMAND_LOG, planned.id, planned.store.root)
    executor = planned.config.executor
    with (
        contextlib.redirect_stdout(sys.stderr),  # libraries print to it on their own
        start_table(executor, say, len(planned.plan), [], seconds) as table,
    ):
        carry_out([planned], executor, table, table.say)


if __name__ == "__main__":
    main()
