"""What tests of `dpo` share: inputs, a small config, and a stop in the middle."""

from __future__ import annotations

from pathlib import Path

from tiny_rankings import saved_policy, saved_rankings

from plumbrule.machine import environment as machine
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.dpo import stage as dpo
from rlhf.dpo.config import DPOConfig

CPU = RuntimeConfig(device="cpu", micro_batch_size=8)


def small(**settings) -> DPOConfig:
    given = {
        "batch_size": 4,
        "learning_rate": 3e-3,
        "save_every": 3,
        "num_samples": 3,
        "num_kl_prompts": 4,
        "max_new_tokens": 6,
        **settings,
    }
    return DPOConfig(**given)


def rankings_of(folder: Path, num_train: int = 8, num_held_out: int = 4, seed: int = 0):
    """Return inputs of the stage: each ranking has three answers, so three pairs."""
    rankings = saved_rankings(folder / "rankings", num_train, num_held_out, seed)
    return {
        "policy": Artifact.of(saved_policy(folder / "policy", seed), "sft"),
        "preferences": Artifact.of(rankings, "data"),
    }


def build(config, given, out: Path, runtime=CPU, tracker=None):
    out.mkdir(parents=True, exist_ok=True)
    return dpo.run(config, given, runtime, out, tracker or NullTracker())


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


class Stop(Exception):
    """What stands for a kill in a test."""


class StoppingTracker(NullTracker):
    """Keeps what is logged and raises `Stop` when update `stop_at` is logged."""

    def __init__(self, stop_at: int | None = None):
        self.stop_at = stop_at
        self.rows: dict[int, dict[str, float]] = {}

    def log(self, metrics, update):
        if update == self.stop_at:
            raise Stop
        self.rows[update] = dict(metrics)


machine.prepare(RuntimeConfig(device="cpu", threads=1))  # as the pipeline does for a stage
