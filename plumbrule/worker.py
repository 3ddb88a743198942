"""One process of a stage that runs in several: what torchrun starts. Part of the roof.

Usage: torchrun ... -m plumbrule.worker <artifact folder>. It reads `stage.json` there, which the
parent wrote, builds the typed config again and runs the stage; the process of rank 0 leaves the
metrics in `result.json`. Hydra runs in the parent only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

from plumbrule import machine
from plumbrule.artifacts import Artifact, write_json
from plumbrule.config import RuntimeConfig
from plumbrule.pipeline import stage_function
from plumbrule.run_config import STAGES
from plumbrule.tracking import FileTracker, NullTracker, Tracker


def main(folder: Path) -> None:
    """Run this process's share of the stage in `folder`."""
    from plumbrule import distributed

    stage = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    kind = stage["kind"]
    config = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(STAGES[kind].config), stage["config"])
    )
    runtime = RuntimeConfig(**stage["runtime"])
    inputs = {
        slot: Artifact(**{**about, "path": Path(about["path"])})
        for slot, about in stage["inputs"].items()
    }
    machine.prepare(runtime)
    distributed.start(runtime)
    try:
        tracker: Tracker = FileTracker(folder) if distributed.is_main() else NullTracker()
        metrics = stage_function(kind)(config, inputs, runtime, folder, tracker)
        if distributed.is_main():
            write_json(folder / "result.json", dict(metrics))
    finally:
        distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
