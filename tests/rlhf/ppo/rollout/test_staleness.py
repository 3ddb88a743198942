"""One-step off-policy: which policy samples what, what that is corrected by, and what is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from worlds import ppo as world

from plumbrule.errors import ConfigError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import Sample, generate
from plumbrule.lm.loading import Policy
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo import stage
from rlhf.ppo.config import EarlyStopConfig, KLConfig, PPOConfig
from rlhf.ppo.rollout import parquet
from rlhf.ppo.stage import run

CORRECTIONS: list[dict[str, Any]] = [{"old_logprobs": "rollout"}, {"importance_cap": 2.0}]


def train(
    folder: Path, config: PPOConfig, sampler: Any = None
) -> tuple[list[dict[str, Any]], Path, Any]:
    inputs = world.build(folder, seed=config.seed)
    out = folder / "out"
    out.mkdir(parents=True)
    runtime = world.runtime(micro_batch_size=config.batch_size)
    headlines = run(config, inputs, runtime, out, FileTracker(out), sampler)
    return read_metrics(out), out, headlines


class Noting:
    """Our sampler; it notes the sum of the policy's weights each time that it is asked."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: SamplingConfig,
        keys: Sequence[int],
    ) -> list[Sample]:
        weights = torch.cat([p.detach().flatten() for p in policy.model.parameters()])
        self.seen.append(float(weights.double().abs().sum()))
        return generate(policy, prompts, sampling=sampling, keys=keys)


@pytest.mark.detail(64)
def test_each_rollout_is_sampled_before_the_update_ahead_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights at each call of the sampler: those of the start twice, then one update behind."""
    before, sampler, step = [], Noting(), stage.ppo_step

    def noted(learner: Any, *others: Any) -> Any:
        weights = torch.cat([p.detach().flatten() for p in learner.policy.model.parameters()])
        before.append(float(weights.double().abs().sum()))
        return step(learner, *others)

    monkeypatch.setattr(stage, "ppo_step", noted)
    train(tmp_path, world.config(staleness=1, old_logprobs="rollout"), sampler)
    assert len(set(before)) == 6
    assert sampler.seen == [before[0], *before[:5]]


@pytest.mark.detail(64)
def test_the_lag_is_logged_and_its_gap_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    rows, out, _ = train(tmp_path, world.config(staleness=1, importance_cap=2.0))
    assert [row["rollout/staleness_updates"] for row in rows] == [0, 1, 1, 1, 1, 1]
    gaps = [row["val/logprob_gap_mean"] for row in rows]
    assert gaps[0] < 1e-6
    assert min(gaps[1:]) > 1e-4  # a whole update lies between
    assert "sampler and training pass differ" not in caplog.text
    lags = []
    for update in range(1, 7):
        found = pq.read_metadata(parquet.path_of(out / "rollouts", update)).metadata
        lags.append(found.get(b"staleness"))
    assert lags == [None, *[b"1"] * 5]
    notes = json.loads((out / "notes.json").read_text())
    assert any("sampled before the update ahead of it" in note for note in notes)


@pytest.mark.detail(64)
def test_which_log_probs_are_the_old_ones(tmp_path: Path) -> None:
    """rollout: the sampling policy's, so the first ratio is off 1. recompute: the learner's."""
    rows, out, _ = train(
        tmp_path / "rollout", world.config(staleness=1, total_episodes=48, **CORRECTIONS[0])
    )
    rollout = parquet.read(parquet.path_of(out / "rollouts", 3))
    assert torch.equal(rollout.logprobs, rollout.trajectory.rollout_logprobs)
    assert rows[0]["val/first_ratio_error"] < 1e-4 < 1e-3 < rows[2]["val/first_ratio_error"]
    rows, out, _ = train(
        tmp_path / "recompute", world.config(staleness=1, total_episodes=48, **CORRECTIONS[1])
    )
    rollout = parquet.read(parquet.path_of(out / "rollouts", 3))
    assert not torch.allclose(rollout.logprobs, rollout.trajectory.rollout_logprobs, atol=1e-4)
    assert rows[2]["val/first_ratio_error"] < 1e-4


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("correction", CORRECTIONS, ids=["rollout", "recompute"])
def test_a_word_that_pays_is_said_all_the_same(
    correction: dict[str, Any], seed: int, tmp_path: Path
) -> None:
    config = world.config(
        seed=seed,
        total_episodes=64 * 24,
        batch_size=64,
        num_mini_batches=1,
        learning_rate=2e-2,
        value_learning_rate=2e-2,
        sampling=SamplingConfig(max_new_tokens=5, batch_size=64),
        save_every=100,
        num_samples=0,
        staleness=1,
        **correction,
    )
    rows, _, _ = train(tmp_path, config)
    assert rows[0]["objective/scores_raw"] < 0.15
    assert sum(row["objective/scores_raw"] for row in rows[-3:]) / 3 >= 0.75


@pytest.mark.parametrize("draws", [1, 2])
def test_a_run_that_ends_early_counts_the_batch_that_it_drew_ahead(
    draws: int, tmp_path: Path
) -> None:
    """It was sampled for the update that does not follow."""
    config = world.config(
        staleness=1,
        old_logprobs="rollout",
        advantage="rloo",
        samples_per_prompt=4,
        dynamic_sampling_max_draws=draws,
        early_stop=EarlyStopConfig(run_kl=1e-5),
        kl=KLConfig(coef=0.0),
        learning_rate=1e-2,
    )
    sampler = Counting()
    rows, out, headlines = train(tmp_path, config, sampler)
    assert 1 < len(rows) < 6
    assert headlines["cost/generated_tokens"] == pytest.approx(sampler.num_tokens)
    if draws > 1:
        assert headlines["ppo/episodes_sampled"] == sampler.num_episodes
    saved = sorted((out / "checkpoints").glob("*/next_batch.json"))
    assert all(int(path.parent.name.rpartition("-")[2]) < len(rows) for path in saved)


class Counting(Noting):
    """Our sampler; it counts what it gave."""

    num_tokens = num_episodes = 0

    def __call__(self, *given: Any, **named: Any) -> list[Sample]:
        found = generate(*given, **named)
        self.num_tokens += sum(len(sample.tokens) for sample in found)
        self.num_episodes += len(found)
        return found


@pytest.mark.detail(64)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"staleness": 1}, r"ppo.staleness \(=1 update\) must go with what corrects"),
        ({"staleness": 2, "old_logprobs": "rollout"}, r"ppo.staleness \(=2 updates\)"),
        ({"staleness": -1}, r"ppo.staleness \(=-1 updates\)"),
        (
            {"staleness": 1, "importance_cap": 2.0, "old_logprobs": "rollout"},
            "ppo.importance_cap",
        ),
    ],
)
def test_a_lag_that_nothing_corrects_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world.config(**changes)
