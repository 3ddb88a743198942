"""PPO on an accelerator against PPO on the CPU; run by scripts/gpu_check.sh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from worlds import ppo as world

from plumbrule.machine import environment
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo import stage as ppo
from rlhf.ppo.measures.metrics import LARGEST_GAP
from rlhf.ppo.rollout import parquet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def run(folder: Path, device: str, **changes: object) -> Path:
    """Run the tiny world's PPO on a device; return what it leaves."""
    inputs = world.build(folder)
    out = folder / "out"
    out.mkdir()
    environment.prepare(world.runtime())  # as the pipeline does: the same kernels as in a real run
    ppo.run(world.config(**changes), inputs, world.runtime(device=device), out, FileTracker(out))
    return out


def test_a_run_on_an_accelerator_is_that_on_the_cpu(tmp_path: Path) -> None:
    """Up to float32 sums in another order, which Adam's first steps magnify."""
    here, there = run(tmp_path / "cpu", "cpu"), run(tmp_path / "cuda", "cuda")
    first = [parquet.read(parquet.path_of(out / "rollouts", 1)) for out in (here, there)]
    assert first[0].trajectory.responses == first[1].trajectory.responses
    assert torch.allclose(first[0].advantages, first[1].advantages, rtol=1e-3, atol=1e-4)
    ours, theirs = (load_file(out / "model" / "model.safetensors") for out in (here, there))
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-2, atol=1e-3), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sampler_and_training_pass_agree(tmp_path: Path, precision: str) -> None:
    out = run(tmp_path, "cuda", precision=precision)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    # the bounds of the warning that the stage itself gives (rlhf/ppo/measures/metrics.py)
    gaps = [json.loads(line)["val/logprob_gap_max"] for line in lines]
    assert max(gaps) <= LARGEST_GAP[precision]


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    once, twice = run(tmp_path / "a", "cuda"), run(tmp_path / "b", "cuda")
    name = "model/model.safetensors"
    assert (once / name).read_bytes() == (twice / name).read_bytes()
