"""PPO whose rollouts another engine samples, on the tiny world; of vLLM's with `make test-vllm`."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from worlds import engine
from worlds import ppo as world

from plumbrule.errors import ConfigError
from plumbrule.lm.config import AdapterConfig, SamplingConfig
from plumbrule.lm.generation.transformers_sampler import require_engine
from plumbrule.lm.generation.vllm import vllm_sampler
from plumbrule.machine.vllm_environment import vllm_python
from plumbrule.pipeline.execute import Planned
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.sampler_checks import check_samplers
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.fingerprint import code_hashes
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.options import SAMPLERS
from rlhf.ppo.rollout import parquet
from rlhf.ppo.stage import run

WARM = SamplingConfig(temperature=0.7, max_new_tokens=5, batch_size=16)
TWELVE = {"total_episodes": 32 * 12, "batch_size": 32}
SMALL_CACHE = RuntimeConfig(device="cpu", micro_batch_size=8, sampler_cache_gib=0.25)


def config(**changes: Any) -> PPOConfig:
    settings = {"sampler": "vllm", "importance_cap": 2.0, "sampling": WARM, "save_every": 2}
    return world.config(**{**settings, **changes})


def train(folder: Path, settings: PPOConfig, runtime: RuntimeConfig = SMALL_CACHE) -> Path:
    """Run the stage in a folder, on where its checkpoints are."""
    inputs = world.inputs_in(folder) if (folder / "sft").exists() else build(folder)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    run(settings, inputs, runtime, out, FileTracker(out))
    return out


def build(folder: Path) -> Mapping[str, Any]:
    folder.mkdir(exist_ok=True)
    return world.build(folder, width=64, spread=0.1)


def responses(out: Path, update: int) -> list[list[int]]:
    rollout = parquet.read(parquet.path_of(out / "rollouts", update))
    return [list(row) for row in rollout.trajectory.responses]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve updates."""
    engine.engine_python()
    return train(tmp_path_factory.mktemp("vllm") / "run", config(**TWELVE))


@pytest.mark.vllm
def test_it_learns_and_says_who_sampled(done: Path) -> None:
    rows = read_metrics(done)
    scores = [row["objective/scores"] for row in rows]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.3, scores
    for row in rows:
        assert row["val/logprob_gap_max"] < 1e-4
        assert row["val/ratio_out_of_band"] == 0.0
    path = parquet.path_of(done / "rollouts", 12)
    assert pq.read_schema(path).metadata[b"sampler"] == b"vllm 0.32.0 float32"
    assert "sampled by vllm 0.32.0 float32" in json.loads((done / "notes.json").read_text())[0]


class Stop(Exception):
    """Ends a run after some updates."""


@contextmanager
def stopping(after: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a run end as it asks vLLM for the rollout after `after` updates."""
    asked = vllm_sampler.VLLMSampler.__call__
    calls = []

    def counted(self: Any, *args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise Stop
        return asked(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(vllm_sampler.VLLMSampler, "__call__", counted)
        yield


@pytest.mark.vllm
def test_a_run_that_was_stopped_goes_on_with_the_same_bytes(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(**TWELVE)
    with stopping(7, monkeypatch), pytest.raises(Stop):
        train(tmp_path / "run", settings)
    out = train(tmp_path / "run", settings)
    for update in range(1, 13):
        assert responses(out, update) == responses(done, update), update
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (out, done))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.vllm
def test_an_engine_that_is_killed_between_updates_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a policy with an adapter, whose merged weights are sent."""
    engine.engine_python()
    settings = config(total_episodes=16 * 3, adapter=AdapterConfig(rank=2))
    whole = train(tmp_path / "whole", settings)
    write = vllm_sampler.SharedWeights.write
    seen: list[int] = []

    def killing(self: Any, *args: Any) -> Any:
        seen.append(1)
        if len(seen) == 4:  # two for the start, one for each update after the first
            monkeypatch.setattr(vllm_sampler.SharedWeights, "write", write)
            os.kill(pids[-1], signal.SIGKILL)
        return write(self, *args)

    start = vllm_sampler.VLLMSampler._start
    pids: list[int] = []

    def noted(self: Any, *args: Any) -> Any:
        process = start(self, *args)
        pids.append(process.process.pid)
        return process

    monkeypatch.setattr(vllm_sampler.SharedWeights, "write", killing)
    monkeypatch.setattr(vllm_sampler.VLLMSampler, "_start", noted)
    with caplog.at_level(logging.WARNING):
        killed = train(tmp_path / "killed", settings)
    assert len(set(pids)) == 2
    assert "SIGKILL" in caplog.text
    for update in (1, 2, 3):
        assert responses(killed, update) == responses(whole, update)
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


# transformers, in this process


def test_transformers_samples_a_run_and_is_named(tmp_path: Path) -> None:
    """And another run leaves the same bytes."""
    try:
        require_engine()
    except ConfigError as error:
        pytest.skip(str(error))
    settings = config(sampler="transformers", total_episodes=16 * 3)
    whole = train(tmp_path / "whole", settings)
    for row in read_metrics(whole):
        assert row["val/logprob_gap_max"] < 1e-4
    path = parquet.path_of(whole / "rollouts", 3)
    assert pq.read_schema(path).metadata[b"sampler"].startswith(b"transformers 5.")
    again = train(tmp_path / "again", settings)
    weights = [load_file(out / "model" / "model.safetensors") for out in (whole, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# vLLM that is not there


def test_vllm_that_is_not_installed_ends_the_stage_before_a_rollout(tmp_path: Path) -> None:
    runtime = replace(SMALL_CACHE, vllm_python=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="make install-vllm"):
        train(tmp_path / "run", config(), runtime)


def planned(**changes: Any) -> Planned:
    node = Node("ppo", "ppo", {}, config(**changes))
    return Planned(node, "0" * 16, {}, {}, {}, "build", "", {})


def test_the_plan_finds_out_and_says_what_is_not_weighed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = RuntimeConfig(vllm_python=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="make install-vllm"):
        check_samplers([planned()], missing)
    assert check_samplers([replace(planned(), state="cached")], missing) == []
    assert check_samplers([planned(sampler="own", importance_cap=None)], missing) == []
    monkeypatch.setattr("plumbrule.pipeline.sampler_checks.vllm_python", lambda _: Path())
    assert check_samplers([planned()], missing) == []
    assert check_samplers([planned(importance_cap=None, old_logprobs="rollout")], missing) == []
    (note,) = check_samplers([planned(importance_cap=None)], missing)
    assert "ppo.importance_cap=2" in note


def test_the_plan_knows_heads_that_no_kernel_takes(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plumbrule.pipeline.sampler_checks.vllm_python", lambda _: Path())

    def notes(device: str, *overrides: str) -> list[str]:
        _, nodes = composed("ppo.sampler=vllm", "ppo.importance_cap=2", *overrides)
        plan = [Planned(node, "0" * 16, {}, {}, {}, "build", "", {}) for node in nodes]
        return check_samplers(plan, RuntimeConfig(device=device))

    with pytest.raises(ConfigError, match=r"plumbrule/atlas-base: it has heads of 48 numbers"):
        notes("cpu")
    assert notes("cuda") == []
    assert notes("cpu", "model=micro") == []
    with pytest.raises(ConfigError, match=r"of this shape: it has heads of 16 numbers"):
        notes("cpu", "model=micro", "model.num_heads=8")


def test_an_engines_code_counts_for_those_alone_who_choose_it() -> None:
    own, theirs = code_hashes(["rlhf.ppo.stage"]), SAMPLERS.option("vllm").where
    assert not [path for path in own if "vllm" in path]
    reached = code_hashes([str(theirs).partition(":")[0]])
    for name in ("engine_script", "framing", "shared_weights", "vllm_sampler", "engine_process"):
        assert f"plumbrule/lm/generation/vllm/{name}.py" in reached
    assert config().source.startswith("sampler:")
    assert PPOConfig().source == ""


def test_a_sampler_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"ppo.sampler .=sglang. must be one of own, transformers, vllm"
    ):
        config(sampler="sglang")


@pytest.mark.vllm
def test_the_environment_that_is_there_has_the_pinned_version() -> None:
    engine.engine_python()
    assert vllm_python(RuntimeConfig()).is_file()
