"""The command line: `plumbrule [verb] ...`. Part of the roof.

A first word that is a verb is parsed with argparse (`plumbrule/cli/verbs.py`); everything else is
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
import re
import signal
import stat
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule.errors import DataError, NeedsInput, PlumbruleError, Terminated, TrainingError
from plumbrule.machine import environment as machine
from plumbrule.machine import precision
from plumbrule.machine.accelerators import require_device
from plumbrule.overrides import unreadable
from plumbrule.pipeline import plugins
from plumbrule.pipeline import run_record as record
from plumbrule.pipeline.data_sources import describe_sources, model_words
from plumbrule.pipeline.execute import Planned, RunContext, execute, make_plan
from plumbrule.pipeline.experiment import (
    KEYS,
    Composed,
    RunConfig,
    as_json,
    compose_run,
    schemas,
    store_root,
)
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.plan_facts import duration, expected_seconds, preview_data
from plumbrule.pipeline.setting_names import hint, settings_of
from plumbrule.pipeline.stages import STAGES
from plumbrule.report.sweep_table import (
    CELL,
    Cell,
    find_cells,
    read_cell,
    table_lines,
    write_cell,
    write_csv,
)
from plumbrule.store.artifacts import Store, write_json
from plumbrule.store.fingerprint import ROOT, digest
from plumbrule.surroundings import prepare_streams
from plumbrule.tracking.trackers import TRACKERS, CommandFacts, FilesOnly, RunTracker
from plumbrule.tracking.wandb_start import check_wandb

_INSTALLED = ROOT / "plumbrule" / "conf"
CONF = _INSTALLED if _INSTALLED.is_dir() else ROOT / "conf"
"""Inside the package where it is installed, else at the root of the project."""
MULTIRUN = ("-m", "--multirun")
SWEEP = "PLUMBRULE_SWEEP"
"""Names the sweep that a cell belongs to, also where a launcher runs cells in other processes."""
SWEEP_FOLDERS = "PLUMBRULE_SWEEP_FOLDERS"
"""Names a folder in which every cell, whatever its process, notes where the sweep's folder lies."""
DRY = "dry"
"""The folder in there of a dry sweep's cells, which leave nothing in a store."""
FAILURE = "failure.json"


def register() -> None:
    """Give Hydra the schema of the whole config and of each group."""
    OmegaConf.register_new_resolver("cell", cell_name, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)
    store = ConfigStore.instance()
    for group, schema in schemas().items():
        if group:
            store.store(group=group, name="schema", node=schema)
        else:
            store.store(name="run_schema", node=schema)


def cell_name(overrides: str) -> str:
    """Return the folder name of a sweep's cell: its overrides, shortened, and a hash of them."""
    plain = re.sub(r"[^\w.=,-]", "_", overrides)
    return f"{plain[:60]}-{digest(overrides)[:8]}"


def sweep_folder(given: str | None, name: str, dry: bool) -> str:
    """Return the folder that Hydra makes for a sweep; a dry one's goes when the command ends.

    Args: given, name, dry: run.store, run.name and run.dry.
    """
    if dry:
        return str(Path(os.environ.get(SWEEP_FOLDERS, tempfile.gettempdir())) / DRY)
    return str(Path(store_root(given)) / "runs" / name / "sweep")


def say(line: str) -> None:
    """Print a line about the run to standard error, where progress goes too."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command line and exit."""
    prepare_streams()
    signal.signal(signal.SIGTERM, _terminate)
    if " ".join(sys.argv[1:3]).startswith("-sc query="):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (a shell asks while a person types)
    code = _guarded(_load_plugins)
    if code:
        sys.exit(code)
    if (answered := _answered(sys.argv[1:])) is not None:
        sys.exit(answered)
    register()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    words = model_words(sys.argv[1:], [path.stem for path in (CONF / "model").glob("*.yaml")])
    sys.argv[1:] = sorted(words, key=lambda word: word not in MULTIRUN)  # Hydra wants it first
    if not set(sys.argv[1:]) & set(MULTIRUN):
        sys.exit(_guarded(_hydra_main))
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
    from plumbrule.cli import help_page, verbs

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


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
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
    try:
        return run(cfg, overrides, SweepCell(about, folder))
    except NeedsInput as wanted:
        say(f"cell {' '.join(overrides)}: {wanted}")
        write_cell(folder, replace(about, awaits=wanted.what))
    except Exception as error:  # the boundary of a sweep cell: the other cells go on
        say(f"cell {' '.join(overrides)} failed: {error}")
        written = read_cell(
            folder / CELL, about.sweep
        )  # of a run that ended, without its objective
        write_cell(folder, replace(written or about, error=str(error)))
        failure = {"overrides": overrides, "error": str(error), "trace": traceback.format_exc()}
        write_json(folder / FAILURE, failure)
    return float("nan")


class SweepCell(NamedTuple):
    """The cell of a sweep that a run is, and its folder in the sweep's."""

    about: Cell
    folder: Path


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
    print_plan(composed, plan, rows, expected_seconds(plan, store))
    require_ready(config, plan, cell is not None)
    if config.run.dry:
        return None
    run_id = new_run_id()
    folder = store.root / "runs" / config.run.name / run_id
    folder.mkdir(parents=True)
    write_json(
        folder / "run.json", {**record.opening(config, overrides, run_id), "state": "running"}
    )
    tracker: RunTracker | None = None
    try:
        tracker = start_tracker(config, overrides, plan, folder, cell)
        context = RunContext(f"{config.run.name}/{run_id}", folder, store, config.runtime, tracker)
        built = execute(plan, context, say)
        seconds = time.monotonic() - began
        whole = record.close(config, overrides, run_id, built, store, seconds, composed.goals)
        record.write_reports(whole, built, folder)
        write_json(folder / "run.json", whole)
    except BaseException as error:
        opening = record.opening(config, overrides, run_id)
        try:
            write_json(folder / "run.json", {**opening, **describe_end(error, store)})
        finally:
            if tracker is not None:
                tracker.finish(None, None, failed=not isinstance(error, NeedsInput))
        raise
    tracker.finish(whole, folder / "report.html")
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
    stopped = isinstance(error, KeyboardInterrupt)
    return {
        "state": "failed",
        "error": f"stopped by {describe_stop(error)}" if stopped else str(error),
    }


def note_folder(folder: Path) -> None:
    """Tell the command that started the sweep where this cell's sweep lies."""
    noted = os.environ.get(SWEEP_FOLDERS)
    if noted is not None:
        path = Path(noted) / digest(str(folder))[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(folder.resolve()), encoding="utf-8")


def end_sweep(sweep: str, noted: Path) -> None:
    """Print a sweep's table and write all of it as CSV beside its cells.

    Raises: TrainingError: a cell failed. NeedsInput: none did, and one waits for a person.
    """
    notes = [path for path in sorted(noted.iterdir()) if path.is_file()]
    folders = [Path(path.read_text(encoding="utf-8")) for path in notes]
    cells, folder = find_cells(folders, sweep)
    if folder is None:
        return  # dry, or refused before its first cell
    print("\n".join(table_lines(cells)))
    if folder != (noted / DRY).resolve():
        path = folder / f"{sweep}.csv"
        write_csv(path, cells)
        say(f"all metrics of the sweep: {path}")
    failed = [" ".join(cell.overrides) for cell in cells if cell.error]
    if failed:
        raise TrainingError(f"{len(failed)} cell(s) failed: {'; '.join(failed)}")
    waiting = [cell.awaits for cell in cells if cell.awaits]
    if waiting:
        raise NeedsInput(folder, waiting[0])


def start_tracker(
    config: RunConfig,
    overrides: list[str],
    plan: list[Planned],
    folder: Path,
    cell: SweepCell | None,
) -> RunTracker:
    """Return the command's tracker; one of a command that builds nothing mirrors nothing, but for
    the cells of a sweep, which stand beside one another.
    """
    if cell is None and not builds(plan):
        return FilesOnly()
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


def describe_stop(error: BaseException) -> str:
    """Return what stopped a run."""
    return "SIGTERM" if isinstance(error, Terminated) else "Ctrl-C"


def builds(plan: list[Planned]) -> bool:
    """Return whether a stage has to run: an artifact that is only copied needs none."""
    return any(planned.state in ("build", "resume") for planned in plan)


def require_ready(config: RunConfig, plan: list[Planned], in_sweep: bool) -> None:
    """Raise ConfigError if what has to be built lacks its device, or a run can't be tracked."""
    if builds(plan):
        require_device(config.runtime)
    if builds(plan) or in_sweep:
        check_wandb(config.tracking)


def new_run_id() -> str:
    """Return the name of a new run: the time in UTC, whatever the time zone, and what tells it from
    others of that second.
    """
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def print_plan(
    composed: Composed,
    plan: list[Planned],
    rows: Mapping[str, str],
    seconds: Mapping[str, float | None],
) -> None:
    """Print where records come from, then what is cached, what will be built, why and how long.

    On standard output: it is what a dry run is asked for.
    """
    out = [f"plan of {composed.config.run.name}: {len(plan)} nodes"]
    out += [f"  {line}" for line in describe_sources(composed.nodes, rows)]
    out += [f"  {line}" for line in composed.left_out]
    width = max(len(p.node.name) for p in plan)
    for planned in plan:
        line = f"  {planned.node.name:<{width}}  {planned.state:<7}"
        line += f" {planned.node.kind}/{planned.fingerprint}"
        expected = seconds.get(planned.node.name)
        if expected is not None:
            line += f"  ~{duration(expected)}"
        if planned.reason:
            line += f"  ({planned.reason})"
        for library, (then, now) in planned.versions.items():
            line += f"  [made with {library} {then}, here {now}]"
        out.append(line)
    if seconds:
        known = [value for value in seconds.values() if value is not None]
        unknown = len(seconds) - len(known)
        line = f"to build: {len(seconds)} of {len(plan)} nodes"
        line += f", about {duration(sum(known))}" if known else ""
        line += f" and {unknown} of unknown length" if known and unknown else ""
        out.append(line)
    for told in (
        _precision_line(composed.config, plan),
        machine.threads_line(composed.config.runtime),
    ):
        if told is not None:
            out.append(f"  {told}")
    print("\n".join(out), flush=True)


def _precision_line(config: RunConfig, plan: list[Planned]) -> str | None:
    """Return in which precision the planned nodes compute, None where none has one."""
    computed = [p.node for p in plan if not isinstance(p.node.config, Given)]
    found = {node.name: STAGES[node.kind].precision(node.config) for node in computed}
    by_node = {name: used[1] for name, used in found.items() if used is not None}
    return precision.plan_line(
        by_node, config.runtime.device, precision.asks_for_auto(as_json(config))
    )


def finish(whole: Mapping[str, Any], folder: Path) -> None:
    """Print the headline metrics with the node that each is of, and where the report lies."""
    metrics = whole["metrics"]
    owners = whole["headline_nodes"]
    width = max((len(owner) for owner in owners.values()), default=0)
    for name in whole["headline"]:
        interval = ""
        if f"{name}_low" in metrics:
            interval = f"  [{metrics[f'{name}_low']:.4g}, {metrics[f'{name}_high']:.4g}]"
        own = name.removeprefix(f"{owners[name]}:")
        say(f"  {owners[name]:<{width}}  {own:<40} {metrics[name]:.4g}{interval}")
    for note in whole["notes"]:
        say(f"  note: {note}")
    built = sum(node["state"] in ("built", "resumed") for node in whole["nodes"].values())
    say(
        f"done in {whole['metrics']['time/total_seconds']:.1f} s: {built} built, "
        f"{len(whole['nodes']) - built} cached; report: {folder / 'report.html'}"
    )


def explain_permission(error: PermissionError) -> str:
    """Return a refusal of the file system as one line, with what a shared store needs."""
    path = Path(os.fsdecode(error.filename)) if error.filename is not None else None
    mode = ""
    with contextlib.suppress(OSError):
        if path is not None:
            mode = f", mode {stat.S_IMODE(path.stat().st_mode):03o}"
    reason = error.strerror or "permission denied"
    return (
        f"{path or 'a file'} ({reason}{mode}) must let this user in; "
        "a store that a group shares needs a folder of that group with chmod g+rwxs, and umask 007 "
        "or 002 for everyone who writes. Else pass run.store=<folder>."
    )


def explain(error: Exception, arguments: list[str]) -> str:
    """Return a composition error as one line: field, value, rule, and the nearest known name."""
    word = error.override if isinstance(error, OverrideParseException) else None
    if (word := word or unreadable_word(arguments)) is not None:
        return unreadable(str(word))
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    inside = re.search(r"Key '(\w+)' not in '(\w+)'", text)
    listed = re.search(r"(?:Could not override|Error merging override) \+*'?([\w.@/]+)", text)
    if inside and listed and listed.group(1).rpartition(".")[2] != inside.group(1):
        return (
            f"{listed.group(1)} (={inside.group(1)}) must hold known keys; "
            f"{hint(f'{listed.group(1)}.{inside.group(1)}', settings_of(RunConfig), KEYS)}"
        )
    wrong = re.search(r"Value '(.*?)' of type '\w+' could not be converted to (\w+)", text)
    full_key = re.search(r"full_key: (\S+)", text)
    if wrong and full_key:
        kind = TYPES.get(wrong.group(2), wrong.group(2))
        return f"{full_key.group(1)} (={wrong.group(1)}) must be {kind}; change it."
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown is None and "not in" in text and full_key:
        unknown = full_key
    if unknown is None:
        return text
    given = unknown.group(1)
    head = given.rpartition(".")[0]
    known = list(settings_of(RunConfig))
    if head.startswith("nodes.") and head.endswith(".inputs"):
        known += [f"{head}.{slot}" for kind in STAGES.values() for slot in kind.slots]
    return f"{given} must be a known key; {hint(given, known, KEYS)}"


def unreadable_word(arguments: list[str]) -> str | None:
    """Return the first setting=value that Hydra can't read, or reads as several values where the
    command is no sweep; None: all are read.
    """
    parser, sweeps = OverridesParser.create(), bool(set(arguments) & set(MULTIRUN))
    for word in arguments:
        if word.startswith("-") or "=" not in word:
            continue
        try:
            if parser.parse_override(word).is_sweep_override() and not sweeps:
                return word
        except HydraException:
            return word
    return None


TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


if __name__ == "__main__":
    main()
