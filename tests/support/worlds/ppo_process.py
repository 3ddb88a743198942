"""PPO in a process of its own: `python -m worlds.ppo_process <mode> <folder> [update to pause at]`.

Mode `run` runs the stage; `both` trains on recorded rollouts before that, `updates` does only that;
`float64` runs the stage in that precision, and `fsdp` does all of it with the weights spread over
the processes. Behind either, `-options` gives the stage `OPTIONS`, `-adapter` (also alone) an
adapter to learn, `-ptx` demonstrations, `-bf16` (also alone) that precision on float32 weights,
`-ahead` (also alone) `DRAWN_AHEAD`, `-searches` (also alone) `SEARCHES`; `stem` freezes the lower
layers.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.loading import load_policy
from plumbrule.lm.parallel import distributed, fsdp
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.ppo import models as ppo_models
from rlhf.ppo.config import PTXConfig
from rlhf.ppo.optimisation.learner import set_learning_rates
from rlhf.ppo.stage import run
from rlhf.ppo.state import state_of
from worlds.ppo import (
    DRAWN_AHEAD,
    OPTIONS,
    SEARCHES,
    config,
    inputs_in,
    learner_of,
    learning_rates,
    make_learner,
    ppo_step,
    recorded,
    runtime,
)
from worlds.trackers import Pausing


def twenty_updates(folder: Path, sharded: bool = False) -> None:
    """Train on recorded rollouts and write the weights."""
    rows = 1 if sharded else 4  # a row a pass: three processes then make 3, 3 and 2 passes
    settings = config(total_episodes=16 * 20)
    learner = learner_of(settings)
    if sharded:
        assert learner.value_model is not None
        assert learner.value_model.trunk is not None
        fsdp.shard_policy(learner.policy.model)
        fsdp.shard_trunk(learner.value_model.trunk)
        learner = make_learner(learner.policy, learner.value_model, settings)
    for update in range(1, 21):
        set_learning_rates(learner.optimizer, learning_rates(settings, update))
        ppo_step(learner, recorded(learner_of(settings), seed=update), settings, update, rows)
    found = state_of(learner).weights
    if distributed.is_main():
        every = [p.flatten() for model in found.values() for p in model.values()]
        torch.save(torch.cat(every), folder / "weights.pt")


def in_float64() -> None:
    """Let the stage load its policies in float64."""
    ppo_models.load_policy = partial(load_policy, dtype=torch.float64)  # type: ignore[assignment]


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, root, pause_at = sys.argv[1], Path(sys.argv[2]), int((*sys.argv, 0)[3])
    settings, where = config(), runtime()
    if mode.startswith("fsdp"):
        where = runtime(sharding="fsdp", processes=3)
    if mode.endswith("-options"):
        settings, where = config(**OPTIONS), replace(where, gradient_checkpointing=True)
    if mode.endswith("adapter"):
        settings = config(adapter=AdapterConfig(rank=2))
    if mode.endswith("ahead"):
        settings = config(**DRAWN_AHEAD)
    if mode.endswith("searches"):
        settings = config(**SEARCHES)
    if mode.endswith("-ptx"):
        settings = config(ptx=PTXConfig(coef=0.5, batch_size=8))
    if mode.endswith("bf16"):
        settings = config(precision="bfloat16")
    if mode == "stem":
        settings = config(unfrozen_layers=1, value_trunk="branch")
    distributed.start(where)
    if mode in ("both", "updates", "fsdp"):
        twenty_updates(root, mode == "fsdp")
    if mode == "updates":
        distributed.stop()
        sys.exit()
    if mode.startswith(("float64", "fsdp")) and not mode.endswith("bf16"):
        in_float64()
    tracker = Pausing(root / "out", pause_at) if distributed.is_main() else NullTracker()
    run(settings, inputs_in(root), where, root / "out", tracker)
    distributed.stop()
