"""A stage run as the pipeline runs it, with settings for a world of a few records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plumbrule.config import RuntimeConfig, SamplingConfig
from plumbrule.machine import environment
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.dpo.config import DPOConfig
from rlhf.feedback.config import FeedbackConfig, RMConfig

CPU = RuntimeConfig(device="cpu")

environment.prepare(RuntimeConfig(device="cpu", threads=1))  # as the pipeline does for a stage


def run_stage(
    run: Callable[..., Mapping[str, float]],
    config: Any,
    inputs: Mapping[str, Artifact],
    out: Path,
    runtime: RuntimeConfig = CPU,
    tracker: Any = None,
) -> Mapping[str, float]:
    """Run a stage into `out`, which is made if need be; return its metrics."""
    out.mkdir(parents=True, exist_ok=True)
    return run(config, inputs, runtime, out, tracker or NullTracker())


def weights(out: Path) -> bytes:
    """Return the published model's weights."""
    return (out / "model" / "model.safetensors").read_bytes()


def small_feedback(**settings: Any) -> FeedbackConfig:
    sampling = SamplingConfig(max_new_tokens=4, batch_size=8)
    return FeedbackConfig(**{"num_responses": 3, "sampling": sampling, **settings})


def small_rm(**settings: Any) -> RMConfig:
    given = {
        "batch_size": 5,
        "learning_rate": 3e-3,
        "num_train_epochs": 1.0,
        "sampling": SamplingConfig(max_new_tokens=6),
        **settings,
    }
    return RMConfig(**given)


def small_dpo(**settings: Any) -> DPOConfig:
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
