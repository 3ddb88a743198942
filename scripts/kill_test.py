"""Kill a PPO at random moments with SIGKILL, and see whether it ends with the same bytes.

    python scripts/kill_test.py --n 20
    python scripts/kill_test.py --n 50 --seed 3 ppo.total_episodes=320 ppo.ema_decay=0.99

One command builds everything, undisturbed. In a copy of its store without the PPO the same command
is started and killed n times, each time after a random part of the seconds that the undisturbed one
took, and then left to end. Every published file must have the same sha256, but for the log, which
holds times. Exit code 1: one has not.

Without settings: `experiment=rehearsal debug=fast` with a dozen updates and every option that has
a state of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SMALL = (
    "experiment=rehearsal",
    "debug=fast",
    "ppo.total_episodes=192",
    "ppo.batch_size=16",
    "ppo.save_every=1",
    "ppo.ema_decay=0.9",
    "ppo.kl.target=0.5",
    "ppo.kl.horizon=200",
    "ppo.value_warmup_updates=2",
    "ppo.score_at=after",
    "ppo.ptx.coef=0.1",
)
TIMED = ("metrics.jsonl", "tables.json")
"""Published files that hold times."""


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=10, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of their moments")
    parser.add_argument("settings", nargs="*", help="of the run; default: a small one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(kill_and_compare(Path(folder), given.settings or list(SMALL), given.n, given.seed))


def kill_and_compare(folder: Path, settings: list[str], kills: int, seed: int) -> int:
    """Return 0 if a run killed that often ends with the bytes of one that was not, else 1."""
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir()
    finish(whole, settings)
    expected = manifest(whole)
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "artifacts" / "ppo")
    draw = random.Random(seed)
    seconds = float(expected["wall_seconds"])
    for number in range(1, kills + 1):
        delay = draw.uniform(0.0, seconds / 2)
        if not kill(killed, settings, delay):
            shutil.rmtree(killed / "artifacts" / "ppo")  # it was done before: begin again
        print(f"kill {number} of {kills} after {delay:.1f} s", flush=True)
    finish(killed, settings)
    found = manifest(killed)
    names = sorted({*expected["files"], *found["files"]} - set(TIMED))
    differ = [n for n in names if hash_of(expected, n) != hash_of(found, n)]
    print(f"{len(names)} files, {len(differ)} differ{': ' if differ else ''}{', '.join(differ)}")
    return int(bool(differ))


def command(settings: list[str]) -> list[str]:
    """Return the command that builds the PPO and what it needs."""
    return [sys.executable, "-m", "plumbrule", *settings, "run.only=ppo"]


def environment(store: Path) -> dict[str, str]:
    """Return the environment of a run in `store`; one thread, so that sums have one order."""
    return {**os.environ, "PLUMBRULE_STORE": str(store), "OMP_NUM_THREADS": "1"}


def finish(store: Path, settings: list[str]) -> None:
    """Let the command end.

    Raises: SystemExit: it fails.
    """
    done = subprocess.run(
        command(settings),
        env=environment(store),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])


def kill(store: Path, settings: list[str], delay: float) -> bool:
    """Kill the command `delay` seconds after its PPO began; return whether it was still running."""
    process = subprocess.Popen(
        command(settings), env=environment(store), stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stderr is not None  # it was asked for
    for line in process.stderr:
        if line.startswith("ppo: "):
            break
    time.sleep(delay)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


def manifest(store: Path) -> dict[str, Any]:
    """Return the manifest of the store's only PPO."""
    (path,) = store.glob("artifacts/ppo/*/manifest.json")
    return json.loads(path.read_text(encoding="utf-8"))


def hash_of(manifest: dict[str, Any], name: str) -> str | None:
    """Return the sha256 of a published file, or None where there is none of that name."""
    return manifest["files"].get(name, {}).get("sha256")


if __name__ == "__main__":
    main()
