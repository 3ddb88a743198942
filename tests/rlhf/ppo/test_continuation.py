"""More updates from a finished run: exact with its state, and the reference stays the first one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from worlds import ppo as world
from worlds.trackers import Stopped, StopsAfter

from plumbrule.errors import ConfigError
from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.loading import load_policy
from plumbrule.store.artifacts import Artifact
from plumbrule.store.json_files import write_json
from plumbrule.store.manifests import MANIFEST, Manifest
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.config import KLConfig, PPOConfig
from rlhf.ppo.kl import next_kl_coefficient
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.evaluation import evaluate
from rlhf.ppo.stage import run

STEERED = KLConfig(coef=0.02, target=0.05, horizon=64)


def train(
    folder: Path,
    name: str,
    config: PPOConfig,
    continues: Path | None = None,
    stop_at: int | None = None,
) -> Path:
    """Run the stage on the world in `folder`; return where it wrote."""
    inputs = world.inputs_in(folder)
    if continues is not None:
        inputs["continues"] = Artifact.of(continues, "ppo")
    out = folder / name
    out.mkdir(exist_ok=True)
    tracker = FileTracker(out) if stop_at is None else StopsAfter(out, stop_at)
    run(config, inputs, world.runtime(), out, tracker)
    return out


def updates(number: int, **changes: Any) -> PPOConfig:
    settings = {"lr_scheduler_type": "constant", "kl": STEERED, "num_samples": 0, **changes}
    return world.config(total_episodes=16 * number, **settings)


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.8, "adam": "tf", "value_trunk": "policy"}])
def test_two_updates_and_two_more_are_four(tmp_path: Path, changes: dict[str, Any]) -> None:
    """To the last bit: weights, value model, KL coefficient, prompts, random numbers, moments."""
    world.build(tmp_path, spread=0.5)
    config = updates(2, keep_state=True, save_every=1, **changes)
    whole = train(tmp_path, "four", replace(config, total_episodes=64))
    first = train(tmp_path, "two", config)
    with pytest.raises(Stopped):  # and a continued run is resumed as any other is
        train(tmp_path, "more", config, first, stop_at=4)
    more = train(tmp_path, "more", config, first)
    for file in ("model/model.safetensors", "value/model.safetensors", "state/policy.safetensors"):
        one, other = load_file(whole / file), load_file(more / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file
    rows = [*read_metrics(first), *read_metrics(more)]
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert [row["ppo/updates"] for row in rows] == [1, 2, 1, 2]
    for name in ("objective/kl", "objective/kl_coef", "objective/scores", "loss/policy_avg"):
        assert [row[name] for row in rows] == [row[name] for row in read_metrics(whole)]
    ends = [json.loads((out / "state" / "control.json").read_text()) for out in (whole, more)]
    assert ends[0] == ends[1]
    assert ends[0]["updates"] == 4


def test_the_reference_stays_the_first_one_and_the_kl_goes_on_from_its_end(tmp_path: Path) -> None:
    """Without the state kept: published weights, fresh moments."""
    world.build(tmp_path, spread=0.5)
    first = train(tmp_path, "first", updates(3, learning_rate=2e-2))
    assert sorted(p.name for p in (first / "state").iterdir()) == ["control.json"]
    more = train(tmp_path, "more", updates(1, learning_rate=2e-2), first)
    rollout = parquet.read(more / "rollouts" / "update-00004.parquet")
    sft, trained = (load_policy(tmp_path / name / "model") for name in ("sft", "first"))
    said = evaluate(
        rollout.trajectory,
        trained,
        sft,
        None,
        temperature=1.0,
        precision="float32",
        micro_batch_size=16,
    )
    mask = rollout.trajectory.action_mask
    assert torch.allclose(rollout.ref_logprobs, said.ref_logprobs, atol=1e-5)
    assert torch.allclose(rollout.logprobs, said.logprobs, atol=1e-5)
    assert float((said.logprobs - said.ref_logprobs)[mask].abs().max()) > 1e-2
    before, after = read_metrics(first)[-1], read_metrics(more)[0]
    assert after["objective/kl"] > 0.5 * before["objective/kl"] > 0  # and not 0 again
    coef, kl = before["objective/kl_coef"], before["objective/kl"]
    assert after["objective/kl_coef"] == next_kl_coefficient(coef, kl, 0.05, 64, 16) != 0.02


def test_an_adapter_goes_on_learning_and_its_reference_is_the_plain_policy(tmp_path: Path) -> None:
    world.build(tmp_path, spread=0.5)
    config = updates(1, adapter=AdapterConfig(rank=2), keep_state=True, learning_rate=3e-2)
    whole = train(tmp_path, "both", replace(config, total_episodes=32))
    first = train(tmp_path, "first", config)
    more = train(tmp_path, "more", config, first)
    one, other = (load_file(out / "state" / "policy.safetensors") for out in (whole, more))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_metrics(more)[0]["objective/kl"] == read_metrics(whole)[1]["objective/kl"] > 0


def test_what_trains_other_weights_is_refused(tmp_path: Path) -> None:
    world.build(tmp_path)
    groups = {"advantage": "rloo", "samples_per_prompt": 2}
    first = train(tmp_path, "first", updates(1, **groups))
    with pytest.raises(ConfigError, match=r"of the value model \(=missing in .*ppo.advantage as"):
        train(tmp_path, "other", updates(1), first)


def test_another_reference_is_refused(tmp_path: Path) -> None:
    world.build(tmp_path)
    first = tmp_path / "ppo" / ("f" * 16)
    first.parent.mkdir()
    train(tmp_path, "first", updates(1)).rename(first)
    made = Manifest(
        kind="ppo",
        node="ppo",
        fingerprint="f" * 16,
        config={},
        inputs={"policy": "a" * 16},
        code={},
    )
    write_json(first / MANIFEST, made.__dict__)
    inputs = world.inputs_in(tmp_path) | {"continues": Artifact.of(first, "ppo")}
    inputs["policy"] = replace(inputs["policy"], fingerprint="b" * 16)
    out = tmp_path / "more"
    out.mkdir()
    with pytest.raises(ConfigError, match=r"must be the one that the continued ppo .*=aaaaaaaa"):
        run(updates(1), inputs, world.runtime(), out, FileTracker(out))


def test_the_plan_knows_the_node_and_refuses_what_can_not_go_on(composed: Callable) -> None:
    goal = "run.goals=[ppo_more]"
    _, nodes = composed(goal, "+nodes.ppo_more.set.total_episodes=512", "ppo.keep_state=true")
    by_name = {node.name: node for node in nodes}
    assert by_name["ppo_more"].inputs["continues"] == "ppo"
    assert by_name["ppo_more"].inputs["policy"] == by_name["ppo"].inputs["policy"] == "sft"
    episodes = [by_name[name].config.total_episodes for name in ("ppo", "ppo_more")]
    assert episodes[1] == 512 != episodes[0]
    with pytest.raises(ConfigError, match=r"nodes.ppo_more.inputs.policy \(=ppo\) must be sft"):
        composed(goal, "nodes.ppo_more.inputs.policy=ppo")
    with pytest.raises(ConfigError, match=r"set.unfrozen_layers \(=1\) must train the weights"):
        composed(goal, "+nodes.ppo_more.set.unfrozen_layers=1")
