"""`plumbrule watch`: follow a run that is being built, from any terminal."""

from __future__ import annotations

import argparse
import time

from plumbrule.cli.submitted import COMMAND_LOG
from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ArtifactError, TrainingError
from plumbrule.results.cells import last_log_lines
from plumbrule.results.progress import building
from plumbrule.results.store_names import find_run, read_record, runs


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", nargs="?", help="a run's id or folder; default: the newest running")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between looks")
    parser.add_argument("--once", action="store_true", help="look once and end")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Print a line whenever a node logs, until the run has ended.

    Raises: ArtifactError: there is no such run. TrainingError: it did not end well.
    """
    store = store_of(options)
    if options.what is None:
        running = [run for run in runs(store) if run[1]["state"] == "running"]
        found = running[-1] if running else None
    else:
        found = find_run(store, options.what)
    if found is None:
        raise ArtifactError(
            f"{options.what or 'a run'} must be running in {store.root}; plumbrule ls lists them."
        )
    folder, record = found
    print(f"{folder.parent.name}/{folder.name}: {record['state']}", flush=True)
    if (log := folder / COMMAND_LOG).is_file():
        print(f"log: {log}", flush=True)
    told: set[str] = set()
    while record["state"] == "running":
        for node in building(store, folder):
            if (line := node.line()) not in told:
                told.add(line)
                print(line, flush=True)
        if options.once:
            return
        time.sleep(max(options.every, 0.1))
        record = read_record(folder) or record
    if told:
        print(f"{folder.parent.name}/{folder.name}: {record['state']}")
    if record["state"] != "done":
        for line in last_log_lines(store, folder, record):
            print(f"  | {line}")
        raise TrainingError(f"run {folder.name} is {record['state']}: {record.get('error', '')}")
