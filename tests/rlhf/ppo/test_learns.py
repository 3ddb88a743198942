"""PPO learns what pays, and learns nothing where nothing does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import ppo as world

from plumbrule.lm.config import RetrievalConfig, SamplingConfig
from plumbrule.lm.loading import load_policy
from plumbrule.protocols import Episode, Passage
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.stage import run
from rlhf.rewards.config import RewardConfig, RewardTermConfig

MORE_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)]
"""Of the longer runs; two seeds of the shortest are always run."""


def settings(num_updates: int, seed: int = 0, **changes: Any) -> PPOConfig:
    return world.config(
        **{
            "seed": seed,
            "total_episodes": 64 * num_updates,
            "batch_size": 64,
            "num_mini_batches": 1,
            "learning_rate": 2e-2,
            "value_learning_rate": 2e-2,
            "sampling": SamplingConfig(max_new_tokens=5, batch_size=64),
            "save_every": 100,
            "num_samples": 0,
            **changes,
        }
    )


def train(
    folder: Path,
    config: PPOConfig,
    monkeypatch: pytest.MonkeyPatch | None = None,
    reward: Any = None,
    spread: float = 0.02,
    **others: Artifact,
) -> list[dict[str, Any]]:
    """Run the stage, with another word reward where one is given."""
    inputs = world.build(folder, seed=config.seed, spread=spread) | others
    if monkeypatch is not None:
        monkeypatch.setattr(world.WordReward, "score", reward)
    out = folder / "out"
    out.mkdir()
    run(config, inputs, world.runtime(micro_batch_size=64), out, FileTracker(out))
    return read_metrics(out)


@pytest.mark.parametrize("seed", [0, MORE_SEEDS[0]])
def test_a_word_that_pays_is_said(seed: int, tmp_path: Path) -> None:
    """From a share of 1 / 16 of the tokens to 0.8 and more."""
    rows = train(tmp_path, settings(16, seed))
    assert rows[0]["objective/scores_raw"] < 0.15
    assert sum(row["objective/scores_raw"] for row in rows[-3:]) / 3 >= 0.8
    assert rows[-1]["objective/entropy"] < 0.5 * rows[0]["objective/entropy"]


def test_an_equal_reward_for_all_moves_nothing_without_a_value_model(tmp_path: Path) -> None:
    """With lambda 1 and values 0 every advantage is the same number; whitened it is exactly 0."""
    constant = RewardConfig([RewardTermConfig("constant")])
    config = settings(4, reward=constant, missing_eos_penalty=0.0, lam=1.0, vf_coef=0.0)
    rows = train(tmp_path, config)
    assert [row["objective/grad_norm"] for row in rows] == [0.0] * 4
    assert [row["objective/kl"] for row in rows] == [0.0] * 4
    before = load_policy(tmp_path / "sft" / "model").model.parameters()
    after = load_policy(tmp_path / "out" / "model").model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_an_equal_reward_for_all_stays_near_with_one(tmp_path: Path) -> None:
    """With a value model that is still learning it can't be 0, and the KL penalty holds it near.

    An untrained value model and lambda < 1 give late tokens more than early ones, and once it is
    trained its small errors are whitened up to unit variance: steps of full size in no lasting
    direction. So the policy wanders by tenths of a nat per response, where a word that pays moves
    it by twelve. PPO as published does this, and a floor under the variance would only hide it at
    one scale of rewards.
    """
    constant = RewardConfig([RewardTermConfig("constant")])
    rows = train(tmp_path, settings(20, reward=constant, missing_eos_penalty=0.0))
    assert rows[0]["loss/value_avg"] > 0.1
    assert rows[-1]["loss/value_avg"] < 1e-3
    assert max(abs(row["objective/kl"]) for row in rows) < 1.0
    assert abs(rows[-1]["objective/kl"]) < 0.5


@pytest.mark.parametrize("seed", [0, *MORE_SEEDS])
def test_a_length_that_pays_is_kept(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly two words and the end: from a third of the responses or fewer to nearly all."""

    def score(self: object, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        return {"score": np.array([float(len(e.response.split()) == 2) for e in episodes])}

    rows = train(tmp_path, settings(60, seed), monkeypatch, score)
    assert rows[0]["objective/scores_raw"] < 0.35
    assert sum(row["objective/scores_raw"] for row in rows[-3:]) / 3 >= 0.8
    assert rows[-1]["val/response_length_tokens"] == pytest.approx(3.0, abs=0.6)


@pytest.mark.parametrize("seed", [0, *MORE_SEEDS])
def test_the_value_model_foresees_what_the_prompt_decides(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the prompts pay 1 whatever is said: more than half of the variance is explained."""

    def score(self: object, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        return {"score": np.array([float(int(e.prompt.id[1:]) % 2) for e in episodes])}

    config = settings(20, seed, learning_rate=1e-4, missing_eos_penalty=0.0, lam=1.0)
    rows = train(tmp_path, config, monkeypatch, score, spread=0.3)
    assert rows[0]["val/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert sum(row["val/explained_variance"] for row in rows[-3:]) / 3 > 0.5


class Lottery:
    """A search whose one passage is a word drawn anew each time: no memory can know it."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(0)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        words = self.draw.choice(PRIZES, size=len(queries))
        return [[Passage("c", str(word), 1.0, "d", 0, 4)] for word in words]


PRIZES = world.WORDS[:4]


class LotteryIndex:
    def retriever(self, method: str) -> Lottery:
        return Lottery()


def open_lottery(artifact: Artifact, runtime: RuntimeConfig) -> LotteryIndex:
    return LotteryIndex()


@pytest.mark.parametrize("seed", [0, MORE_SEEDS[0]])
def test_what_only_a_search_can_tell_is_read(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first word must be the passage's. Whoever ignores it earns at most 1 / 4."""

    def score(self: object, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        return {
            "score": np.array([float(e.response.split()[:1] == [*e.passages]) for e in episodes])
        }

    config = settings(
        40,
        seed,
        retrieval=RetrievalConfig(share=1.0, num_passages=1, budget_tokens=8, method="bm25"),
        sampling=SamplingConfig(max_new_tokens=1, batch_size=64),
        missing_eos_penalty=0.0,
        learning_rate=2e-2,
        num_ppo_epochs=4,
    )
    index = Artifact.of(tmp_path, "index", opener=f"{__name__}:open_lottery")
    rows = train(tmp_path, config, monkeypatch, score, spread=0.3, index=index)
    assert rows[0]["objective/scores_raw"] < 0.25
    assert sum(row["objective/scores_raw"] for row in rows[-3:]) / 3 >= 0.6
