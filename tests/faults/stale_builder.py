"""A builder that a test stops and wakes: `python stale_builder.py <store> <processes>`.

It builds one small node with the real pipeline; as a plug-in it gives the node's kind a stage that
logs, keeps a file open and saves a checkpoint at every step. `$BUILDER` is its name. It tells which
point it has reached by a file in `$GATE`, and waits there as long as the test holds the point.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from plumbrule.pipeline.stages import STAGES
from plumbrule.store import checkpoints, claims

STEPS = 6
SILENT_SECONDS, BEAT_SECONDS = 1.0, 0.1
NAME = os.environ["BUILDER"]
GATE = Path(os.environ["GATE"])


@dataclasses.dataclass
class SlowConfig:
    """Of the slow stage."""

    seed: int = 0


STAGES["data"] = dataclasses.replace(
    STAGES["data"], config=SlowConfig, run=f"{__name__}:run", parallel=True
)


def reach(point: str) -> None:
    """Tell that a point is reached; stay there while it is held."""
    (GATE / f"{NAME}-{point}").touch()
    while (GATE / f"hold-{NAME}-{point}").exists():
        time.sleep(0.02)


def run(config: Any, inputs: Any, runtime: Any, out: Path, tracker: Any) -> dict[str, float]:
    """Make six steps, from the newest checkpoint on."""
    found = checkpoints.newest(out / "checkpoints")
    begun = 0 if found is None else found[0]
    is_main = os.environ.get("RANK", "0") == "0"
    (GATE / f"{NAME}-process-{os.getpid()}").touch()
    tracker.rewind(begun)
    with open(out / "kept.txt" if is_main else os.devnull, "a", encoding="utf-8") as kept:
        for step in range(begun + 1, STEPS + 1):
            reach(f"step{step}")
            kept.write(f"{NAME} {step}\n")
            kept.flush()
            tracker.log({"step": step}, step)
            if is_main:
                checkpoints.save(
                    out / "checkpoints", step, lambda to: (to / "state").write_text(NAME)
                )
    return {"data/rows": float(STEPS)}


def main(store: Path, processes: int) -> None:
    """Build the node."""
    from plumbrule.errors import PlumbruleError
    from plumbrule.machine import environment
    from plumbrule.pipeline import plugins
    from plumbrule.pipeline.execute import RunContext, execute
    from plumbrule.pipeline.graph import Node
    from plumbrule.pipeline.plan import make_plan
    from plumbrule.runtime_config import RuntimeConfig
    from plumbrule.store import artifacts, attempts

    plugins.load()
    claims.SILENT_SECONDS, claims.BEAT_SECONDS = SILENT_SECONDS, BEAT_SECONDS
    environment.prepare = lambda runtime: None  # of a torch that is not used
    rename = attempts.publish

    def publish(attempt: Path, artifact: Path) -> bool:
        reach("publish")
        return rename(attempt, artifact)

    artifacts.attempts.publish = publish
    nodes = [Node("slow", "data", {}, SlowConfig())]
    at = artifacts.Store(store)
    context = RunContext(
        f"{NAME}/1",
        store / "runs" / NAME / "1",
        at,
        RuntimeConfig(device="cpu", processes=processes),
    )

    def build() -> None:
        built = execute(make_plan(nodes, at), context, print)
        print(built["slow"].state, flush=True)

    if processes > 1:  # as the command line does
        from plumbrule.cli import main as run

        signal.signal(signal.SIGTERM, run._terminate)
        sys.exit(run._guarded(build))
    try:
        build()
    except PlumbruleError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
