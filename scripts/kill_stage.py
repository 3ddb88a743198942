"""Kill PPO's stage on a device with SIGKILL, resume it, and see whether its bytes are the same.

    python scripts/kill_stage.py                          # a CPU
    python scripts/kill_stage.py --device cuda --precision bfloat16

`kill_test.py` does that to a whole command on a CPU; here the stage runs alone, on the workload of
`bench_ppo.py`, so that nothing but PPO must be installed. One process runs it undisturbed. Another
is killed a random moment after each of some updates, and started again each time until it ends. All
that it leaves but logs, which hold times, must have the same sha256. Exit code 1: a file has not.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from device_rates import device_name
from ppo_workload import SHAPE, ppo_config, ppo_inputs, require_workload

UPDATES, EPISODES = 5, 16
TIMED = ("metrics.jsonl", "tables.json")
"""Files that hold times."""


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=2, help="kills, each later in the run")
    parser.add_argument("--seed", type=int, default=0, help="of their moments")
    parser.add_argument("--shape", choices=SHAPE, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--workload", type=Path, help="folder that keeps it; made if it is not")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.out is not None:
        run_stage(given)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given.workload = given.workload or folder / "workload"
        require_workload(given.workload, given.shape, given.device)
        found = compare(given, folder)
    print(json.dumps(found))
    sys.exit(bool(found["differ"]))


def run_stage(given: argparse.Namespace) -> None:
    """Run the stage into `out`, or go on with what lies there; tell each update."""
    from plumbrule.machine import environment
    from plumbrule.runtime_config import RuntimeConfig
    from plumbrule.tracking.stage_tracker import FileTracker
    from rlhf.ppo import stage

    class Telling(FileTracker):
        def log(self, metrics: Any, step: int) -> None:
            super().log(metrics, step)
            print(f"update {step}", flush=True)

    runtime = RuntimeConfig(device=given.device, threads=1 if given.device == "cpu" else None)
    environment.prepare(runtime)
    config = ppo_config(
        given.shape,
        UPDATES,
        given.precision,
        total_episodes=UPDATES * EPISODES,
        batch_size=EPISODES,
        save_every=1,
        ema_decay=0.9,
        learning_rate=1e-5,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    tracker = Telling(given.out)
    stage.run(config, ppo_inputs(given.workload), runtime, given.out, tracker)


def compare(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return how many files of the killed run differ from those of the one that was let alone."""
    whole, killed = folder / "whole", folder / "killed"
    began = time.monotonic()
    finish(given, whole)
    seconds = time.monotonic() - began
    draw = random.Random(given.seed)
    steps = [1 + number * (UPDATES - 1) // given.n for number in range(given.n)]
    for step in steps:
        delay = draw.uniform(0.0, seconds / UPDATES / 2)
        kill(given, killed, step, delay)
        print(f"killed {delay:.2f} s after update {step}", file=sys.stderr, flush=True)
    finish(given, killed)
    files, others = digests(whole), digests(killed)
    names = sorted({*files, *others})
    return {
        "device": device_name(given.device),
        "precision": given.precision,
        "kills": given.n,
        "files": len(names),
        "differ": [name for name in names if files.get(name) != others.get(name)],
        "undisturbed_seconds": round(seconds, 1),
    }


def start(given: argparse.Namespace, out: Path) -> subprocess.Popen[str]:
    """Start the stage in a process of its own; it inherits the standard error."""
    words = [sys.executable, __file__, "--out", str(out), "--workload", str(given.workload)]
    words += ["--shape", given.shape, "--device", given.device, "--precision", given.precision]
    return subprocess.Popen(words, stdout=subprocess.PIPE, encoding="utf-8")


def finish(given: argparse.Namespace, out: Path) -> None:
    """Let the stage end. Raises: SystemExit: it fails."""
    with start(given, out) as process:
        process.communicate()
    if process.returncode:
        raise SystemExit(f"the stage ended with code {process.returncode}")


def kill(given: argparse.Namespace, out: Path, step: int, delay: float) -> None:
    """Kill the stage `delay` seconds after an update. Raises: SystemExit: it ended before that."""
    with start(given, out) as process:
        assert process.stdout is not None  # it was asked for
        reached = False
        for line in process.stdout:
            word, _, number = line.strip().partition(" ")
            if word == "update" and int(number) >= step:
                reached = True
                break
        time.sleep(delay)
        running = process.poll() is None
        process.send_signal(signal.SIGKILL)
    if not (reached and running):
        raise SystemExit(f"the stage ended before it could be killed behind update {step}")


def digests(out: Path) -> dict[str, str]:
    """Return name -> sha256 of what will be published."""
    from plumbrule.store.attempts import is_working
    from plumbrule.store.content_digests import SLOW
    from plumbrule.store.content_digests import digests as of_file

    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if path.is_file() and not is_working(name.parts[0]) and str(name) not in TIMED:
            found[str(name)] = of_file(path, SLOW)[SLOW]
    return found


if __name__ == "__main__":
    main()
