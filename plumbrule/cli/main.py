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
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
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
from plumbrule.cli.messages import describe_stop, explain_permission, say
from plumbrule.cli.plan_page import print_plan, tracking_line
from plumbrule.cli.sweep import FAILURE, SWEEP, SweepCell, check_cells, end_sweep, note_folder
from plumbrule.errors import DataError, NeedsInput, PlumbruleError, Terminated, TrainingError
from plumbrule.machine.accelerators import require_device
from plumbrule.pipeline import plugins, run_record
from plumbrule.pipeline.compose import compose_run
from plumbrule.pipeline.data_sources import model_words
from plumbrule.pipeline.execute import RunContext, execute
from plumbrule.pipeline.expected_time import expected_seconds
from plumbrule.pipeline.experiment import RunConfig, as_json
from plumbrule.pipeline.model_checks import check_models
from plumbrule.pipeline.plan import Planned, make_plan
from plumbrule.pipeline.plan_facts import preview_data
from plumbrule.pipeline.planning.needs import describe_needs
from plumbrule.pipeline.sampler_checks import check_samplers
from plumbrule.report.metric_wording import bounds_text
from plumbrule.report.sweep_table import (
    CELL,
    STOPPED,
    Cell,
    read_cell,
    write_cell,
)
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import write_json
from plumbrule.store.layout import REPORT_PAGE, RUN_RECORD, RUNS, TRACEBACK, store_root
from plumbrule.surroundings import prepare_streams
from plumbrule.tracking.trackers import TRACKERS, CommandFacts, RunTracker
from plumbrule.tracking.wandb_start import check_wandb


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
    words = model_words(sys.argv[1:], group_options("model"))
    sys.argv[1:] = sorted(words, key=lambda word: word not in MULTIRUN)  # Hydra wants it first
    if not set(sys.argv[1:]) & set(MULTIRUN):
        if code := _guarded(lambda: require_recipes(sys.argv[1:])):
            sys.exit(code)
        sys.exit(_guarded(_hydra_main))
    if code := _guarded(lambda: check_cells(sys.argv[1:])):
        sys.exit(code)
    sweep = os.environ[SWEEP] = new_run_id()
    with tempfile.TemporaryDirectory(prefix="plumbrule-sweep-") as noted:
        os.environ[SWEEP_FOLDERS] = noted
        code = _guarded(_hydra_main)
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


@hydra.main(config_path=str(CONF), config_name="config", **VERSION_BASE)
def _hydra_main(cfg: DictConfig) -> float | None:
    """Run one composed config; in a sweep, a cell that fails leaves `failure.json`.

    Outside a sweep errors leave as SystemExit: Hydra would print lines of its own around any other.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    overrides = [str(o) for o in job.overrides.task]
    if job.mode != RunMode.MULTIRUN:
        sys.exit(_guarded(lambda: run(cfg, overrides)))
    folder = Path(job.runtime.output_dir)
    about = Cell(os.environ.get(SWEEP, ""), int(job.job.num), overrides, cfg.run.objective)
    if not cfg.run.dry:  # a dry sweep may have been given the folder of another
        for name in (FAILURE, CELL):
            (folder / name).unlink(missing_ok=True)
    note_folder(folder.parent)
    print(f"cell {' '.join(overrides)}")
    try:
        return run(cfg, overrides, SweepCell(about, folder))
    except NeedsInput as wanted:
        say(f"cell {' '.join(overrides)}: {wanted}")
        write_cell(folder, replace(about, awaits=wanted.what))
    except KeyboardInterrupt as stopped:
        write_cell(folder, replace(about, error=f"{STOPPED}{describe_stop(stopped)}"))
        raise
    except Exception as error:  # the boundary of a sweep cell: the other cells go on
        say(f"cell {' '.join(overrides)} failed: {error}")
        written = read_cell(
            folder / CELL, about.sweep
        )  # of a run that ended, without its objective
        write_cell(folder, replace(written or about, error=str(error)))
        failure = {"overrides": overrides, "error": str(error), "trace": traceback.format_exc()}
        write_json(folder / FAILURE, failure)
    return float("nan")


def run(cfg: DictConfig, overrides: list[str], cell: SweepCell | None = None) -> float | None:
    """Plan and build one config and write its record; return `metrics[run.objective]`.

    Raises: PlumbruleError: before a model loads, for what can be known then. NeedsInput.
    """
    began = time.monotonic()
    composed = compose_run(cfg)
    config = composed.config
    store = Store(store_root(config.run.store))
    if not config.run.dry:
        store.require_writable()
    plan = make_plan(composed.nodes, store, strict=config.run.versions == "strict")
    rows = preview_data(config, plan)
    tracked = tracking_line(config, overrides)
    notes = [
        *check_models(plan, dry=config.run.dry),
        *check_samplers(plan, config.runtime),
        *describe_needs(config, plan, CONF),
    ]
    print_plan(composed, plan, rows, expected_seconds(plan, store), [*notes, tracked])
    require_ready(config, plan)
    if config.run.dry:
        return None
    run_id = new_run_id()
    folder = store.root / RUNS / config.run.name / run_id
    folder.mkdir(parents=True)
    write_json(
        folder / RUN_RECORD, {**run_record.opening(config, overrides, run_id), "state": "running"}
    )
    tracker: RunTracker | None = None
    try:
        tracker = start_tracker(config, overrides, folder, cell)
        context = RunContext(f"{config.run.name}/{run_id}", folder, store, config.runtime, tracker)
        with contextlib.redirect_stdout(sys.stderr):  # libraries print to it on their own
            built = execute(plan, context, say)
        seconds = time.monotonic() - began
        whole = run_record.close(config, overrides, run_id, built, store, seconds, composed.goals)
        run_record.write_reports(whole, built, folder)
        write_json(folder / RUN_RECORD, whole)
    except BaseException as error:
        opening = run_record.opening(config, overrides, run_id)
        if error.__cause__ is not None or not isinstance(
            error, PlumbruleError | KeyboardInterrupt | NeedsInput
        ):
            (folder / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
            say(f"traceback: {folder / TRACEBACK}")
        try:
            write_json(folder / RUN_RECORD, {**opening, **describe_end(error, store)})
        finally:
            if tracker is not None:
                tracker.finish(None, None, failed=not isinstance(error, NeedsInput))
        raise
    tracker.finish(whole, folder / REPORT_PAGE)
    finish(whole, folder)
    if cell is not None:
        shown = [*whole["headline"], *filter(None, [config.run.objective])]
        done = replace(cell.about, run=f"{config.run.name}/{run_id}", metrics=whole["metrics"])
        write_cell(cell.folder, replace(done, headline=list(dict.fromkeys(shown))))
    objective = config.run.objective
    if objective is None:
        return None
    if objective not in whole["metrics"]:
        known = ", ".join(sorted(whole["metrics"]))
        raise DataError(
            f"run.objective (={objective}) must be a metric of this run: {known}; choose one of "
            "them."
        )
    return float(whole["metrics"][objective])


def describe_end(error: BaseException, store: Store) -> dict[str, str]:
    """Return what `run.json` says of a run that `error` ended."""
    if isinstance(error, NeedsInput):
        ended = {"state": "waiting", "error": error.what.replace(str(store.root), "<store>")}
        if error.path.is_relative_to(store.root):
            ended["awaits"] = str(error.path.relative_to(store.root))
        return ended
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


def builds(plan: list[Planned]) -> bool:
    """Return whether a stage has to run: an artifact that is only copied needs none."""
    return any(planned.state in ("build", "resume") for planned in plan)


def require_ready(config: RunConfig, plan: list[Planned]) -> None:
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


if __name__ == "__main__":
    main()
