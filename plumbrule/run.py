"""The command line: `plumbrule [verb] ...`. Part of the roof.

A first word that is a verb is parsed with argparse (`plumbrule/verbs.py`); everything else is
Hydra's: overrides, `--cfg job`, `--multirun`. One run composes a config, plans its graph, prints
the plan, resolves or builds each node, and leaves `runs/<name>/<stamp>-<id>/` with `run.json`,
`report.html` and `report.md`. Nothing here imports torch; a run whose nodes are all cached never
does.

Exit codes: 0 done, 1 a stage failed, 2 a setting or input is wrong, 3 a person must do something
first (the message says what; the same command then goes on).
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule import plugins, record
from plumbrule.artifacts import Store, write_json
from plumbrule.errors import DataError, NeedsInput, PlumbruleError, TrainingError
from plumbrule.fingerprint import ROOT, digest
from plumbrule.overrides import unreadable
from plumbrule.pipeline import Planned, RunContext, execute, make_plan
from plumbrule.plan_facts import duration, expected_seconds, preview_data
from plumbrule.run_config import KEYS, Composed, RunConfig, compose_run, schemas, store_root
from plumbrule.setting_names import hint, settings_of
from plumbrule.sources import describe_sources, model_words

CONF = (
    Path(__file__).with_name("conf") if Path(__file__).with_name("conf").is_dir() else ROOT / "conf"
)
"""Beside this file in an installed package, else at the root of the project."""
MULTIRUN = ("-m", "--multirun")
FAILED: list[str] = []
"""Cells of this process's sweep that failed."""


def register() -> None:
    """Give Hydra the schema of the whole config and of each group."""
    OmegaConf.register_new_resolver("cell", cell_name, replace=True)
    OmegaConf.register_new_resolver("store", store_root, replace=True)
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


def say(line: str) -> None:
    """Print a line of the run's own story to standard error, where progress goes too."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command line and exit."""
    code = _guarded(_load_plugins)
    if code:
        sys.exit(code)
    if (code := _answered(sys.argv[1:])) is not None:
        sys.exit(code)
    register()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    words = model_words(sys.argv[1:], [path.stem for path in (CONF / "model").glob("*.yaml")])
    sys.argv[1:] = sorted(words, key=lambda word: word not in MULTIRUN)  # Hydra wants it first
    code = _guarded(_hydra_main)
    if FAILED:
        say(f"{len(FAILED)} cell(s) failed: {', '.join(FAILED)}")
    sys.exit(code or int(bool(FAILED)))


def _answered(words: list[str]) -> int | None:
    """Return the exit code of what needs no config: help, version, a verb; None for the rest."""
    from plumbrule import help_page, verbs

    first = words[0] if words else ""
    if first in ("-h", "--help", "help"):
        print(help_page.page(verbs.VERBS, CONF))
        return 0
    if "--version" in words:
        print(help_page.version())
        return 0
    if first in verbs.VERBS:
        return _guarded(lambda: verbs.main(words))
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


def _guarded(command: Callable[[], Any]) -> int:
    """Run `command`, print a user's error as one line, and return the exit code."""
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
    except BrokenPipeError:  # `plumbrule show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        say("stopped; the same command goes on from the newest checkpoint.")
        return 130


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
    (folder / "failure.json").unlink(missing_ok=True)
    try:
        return run(cfg, overrides)
    except Exception as error:  # the boundary of a sweep cell: the other cells go on
        say(f"cell {' '.join(overrides)} failed: {error}")
        FAILED.append(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        failure = {"overrides": overrides, "error": str(error), "trace": traceback.format_exc()}
        write_json(folder / "failure.json", failure)
        return float("nan")


def run(cfg: DictConfig, overrides: list[str]) -> float | None:
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
    if config.run.dry:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run_id = f"{stamp}-{uuid.uuid4().hex[:6]}"
    folder = store.root / "runs" / config.run.name / run_id
    context = RunContext(
        f"{config.run.name}/{run_id}", folder, store, config.runtime, config.tracking
    )
    folder.mkdir(parents=True)
    write_json(
        folder / "run.json", {**record.opening(config, overrides, run_id), "state": "running"}
    )
    try:
        built = execute(plan, context, say)
    except BaseException as error:
        ended = {"state": "failed", "error": str(error)}
        if isinstance(error, NeedsInput):
            ended = {"state": "waiting", "error": error.what.replace(str(store.root), "<store>")}
            if error.path.is_relative_to(store.root):
                ended["awaits"] = str(error.path.relative_to(store.root))
        opening = record.opening(config, overrides, run_id)
        write_json(folder / "run.json", {**opening, **ended})
        raise
    seconds = time.monotonic() - began
    whole = record.close(config, overrides, run_id, built, store, seconds, composed.goals)
    record.write_reports(whole, built, folder)
    write_json(folder / "run.json", whole)
    finish(whole, folder, store)
    objective = config.run.objective
    if objective is None:
        return None
    if objective not in whole["metrics"]:
        known = ", ".join(sorted(whole["metrics"]))
        raise DataError(f"run.objective (={objective}) must be a metric of this run: {known}.")
    return float(whole["metrics"][objective])


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
    print("\n".join(out), flush=True)


def finish(whole: Mapping[str, Any], folder: Path, store: Store) -> None:
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


def explain(error: Exception, arguments: list[str]) -> str:
    """Return a composition error as one line: field, value, rule, and the nearest known name."""
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override))
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
    return f"{given} must be a known key; {hint(given, known_keys(), KEYS)}"


TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def known_keys() -> list[str]:
    """Return the dotted name of every setting of the default composition."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = OmegaConf.to_container(compose("config"), resolve=True)

    def walk(value: Any, prefix: str) -> list[str]:
        if not isinstance(value, Mapping):
            return []
        return [
            k for name in value for k in (prefix + name, *walk(value[name], f"{prefix}{name}."))
        ]

    return walk(found, "")


if __name__ == "__main__":
    main()
