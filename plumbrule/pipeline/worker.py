"""One process of a stage that runs in several: what torchrun starts.

Usage: torchrun ... -m plumbrule.pipeline.worker <artifact folder>. It reads `stage.json` there,
which the parent wrote, builds the typed config again and runs the stage; the process of rank 0
leaves the metrics in `result.json`. Hydra runs in the parent only. Workers do not outlive it:
torchrun puts them into a session of their own, so each watches whether the parent is there and ends
if it is not.
"""

from __future__ import annotations

from plumbrule.store.file_names import RESULT, STAGE

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import os
import socket
import sys
import threading
import time
from pathlib import Path

from plumbrule.machine import environment, garbage
from plumbrule.pipeline import plugins
from plumbrule.pipeline.execute import stage_function
from plumbrule.pipeline.executors.typed_config import typed_config
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import claims
from plumbrule.store.artifacts import Artifact
from plumbrule.store.json_files import read_json, write_json
from plumbrule.tracking.stage_tracker import FileTracker, NullTracker

WATCH_SECONDS = 1.0


def main(folder: Path) -> None:
    """Run this process's share of the stage in `folder`."""
    garbage.collect_seldom()
    from plumbrule.lm.parallel import distributed

    stage = read_json(folder / STAGE)
    kind = stage["kind"]
    parent = stage["parent"]
    if parent["host"] == socket.gethostname():  # on other machines srun ends what it started
        watcher = threading.Thread(
            target=end_with, args=(parent["pid"], parent["born"]), daemon=True
        )
        watcher.start()
    plugins.load()
    config = typed_config(kind, stage["config"], str(folder))
    runtime = RuntimeConfig(**stage["runtime"])
    inputs = {
        slot: Artifact(**{**about, "path": Path(about["path"])})
        for slot, about in stage["inputs"].items()
    }
    environment.prepare(runtime)
    distributed.start(runtime)
    try:
        tracker: Tracker = FileTracker(folder) if distributed.is_main() else NullTracker()
        metrics = stage_function(kind)(config, inputs, runtime, folder, tracker)
        if distributed.is_main():
            write_json(folder / RESULT, dict(metrics))
    finally:
        distributed.stop()


def end_with(pid: int, born: str) -> None:
    """End this process once the process `pid` that started at `born` is gone."""
    while claims.born(pid) == born:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    with garbage.not_collected():
        from torch.distributed.elastic.multiprocessing.errors import record
    record(main)(Path(sys.argv[1]))
