"""What a sweep costs beside its stages: planning, and cells whose artifacts are all there.

    python scripts/bench_sweep.py [--cells 1000]

The last line is one JSON object. Wall-clock seconds of whole commands, starting Python included,
but for the first and last key:

    cell_cached_seconds              a cached cell of the sweep of a hundred, on average
    hundred_cells_seconds            100 cells, all cached: composed, planned, reported
    thousand_cells_planned_seconds   1,000 cells of which values alone differ: composed, checked,
                                     planned and printed (`run.dry=true`)
    startup_seconds                  `plumbrule run.dry=true`, of which each of these has one
    equal_to_composing_each          whether --compared of the 1,000 cells, spread over them, have
                                     the config and fingerprints that Hydra composes by itself
    load                             of the machine when it began, processes that want a core
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = ["atlas.num_known=16", "atlas.num_after=12", "run.goals=[index]", "tracking=jsonl"]


def timed(store: Path, *words: str) -> float:
    """Return the seconds of a command. Raises: CalledProcessError: it failed."""
    began = time.monotonic()
    variables = {**os.environ, "PLUMBRULE_STORE": str(store)}
    command = [sys.executable, "-m", "plumbrule", *words]
    subprocess.run(command, check=True, cwd=store, env=variables, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    print(f"{seconds:8.1f} s  plumbrule {' '.join(words)}", file=sys.stderr, flush=True)
    return seconds


def same_as_composed_each(number: int, compared: int) -> bool:
    """Return whether cells of values are what composing each of them gives."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from plumbrule.cli.composition import CONF, VERSION_BASE, composed_config, register
    from plumbrule.cli.sweeps.configs import compose_cells
    from plumbrule.pipeline.compose import compose_run
    from plumbrule.pipeline.plan import make_plan
    from plumbrule.store.artifacts import Store

    register()
    GlobalHydra.instance().clear()
    cells = [["tracking=jsonl", *words] for words in cells_of(number)]
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        master = compose("config", return_hydra_config=True)
        master.hydra.job.config_name = "config"
        found = compose_cells(GlobalHydra.instance().config_loader(), master, cells, 0)
    store = Store(tempfile.gettempdir())
    for place in range(0, number, max(1, number // compared)):
        alone = compose_run(composed_config(cells[place]))
        mine = found[place].composed
        plans = [[p.fingerprint for p in make_plan(c.nodes, store)] for c in (alone, mine)]
        if mine.config != alone.config or mine.nodes != alone.nodes or plans[0] != plans[1]:
            return False
    return True


def cells_of(number: int) -> list[list[str]]:
    """Return the overrides of cells: a grid of seeds, KL coefficients and clip ranges."""
    seeds = max(1, number // 20)
    return [
        [f"ppo.kl.coef={coef}", f"ppo.cliprange={clip}", f"seed={seed}"]
        for coef in (0.01, 0.02, 0.05, 0.1, 0.2)
        for clip in (0.1, 0.2, 0.3, 0.4)
        for seed in range(seeds)
    ]


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000, help="that are planned")
    parser.add_argument("--compared", type=int, default=10, help="with composing each")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="plumbrule-bench-") as folder:
        store = Path(folder)
        startup = timed(store, "run.dry=true", "tracking=jsonl")
        timed(store, *SMALL)
        hundred = timed(store, "-m", *SMALL, "ppo.kl.coef=range(0.005,0.505,0.005)")
        seeds = max(1, options.cells // 20)
        grid = ["ppo.kl.coef=0.01,0.02,0.05,0.1,0.2", "ppo.cliprange=0.1,0.2,0.3,0.4"]
        words = ["-m", "run.dry=true", "tracking=jsonl", *grid, f"seed=range({seeds})"]
        planned = timed(store, *words)
    found = {
        "cell_cached_seconds": round((hundred - startup) / 100, 3),
        "hundred_cells_seconds": round(hundred, 2),
        "thousand_cells_planned_seconds": round(planned, 2),
        "startup_seconds": round(startup, 2),
        "cells_planned": 20 * seeds,
        "equal_to_composing_each": same_as_composed_each(20 * seeds, options.compared),
        "load": round(load, 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
