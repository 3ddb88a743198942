"""The configured reward as an artifact: every term of it, asked of responses one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worlds.rankings import saved_policy

from eval.benchmarks.held_out_rewards import judged, summarise
from eval.benchmarks.quantity import with_conditions
from eval.benchmarks.registry import BENCHMARKS
from eval.comparisons.compare import compare
from eval.intervals import Intervals
from plumbrule.atlas.config import GoldConfig
from plumbrule.atlas.gold import GoldUtility
from plumbrule.data.records import Message, Prompt
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.lm.loading import load_policy
from plumbrule.protocols import Episode
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.manifests import Manifest
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.rewards.config import RewardConfig, RewardTermConfig
from rlhf.rewards.functions import FUNCTIONS, register
from rlhf.rewards.judge import GradingJudge, LocalJudge
from rlhf.rewards.judge_config import JudgeTermConfig
from rlhf.rewards.stage import open_configured, run

INTERVALS = Intervals(0.95, 200, 0)


def episodes(*responses: str) -> list[Episode]:
    return [
        Episode(Prompt(f"p{i}", (Message("user", "Say it."),), {}), (), text, True)
        for i, text in enumerate(responses)
    ]


def opened(tmp_path: Path, *terms: RewardTermConfig):
    out = tmp_path / "reward"
    out.mkdir(exist_ok=True)
    run(RewardConfig(terms=list(terms)), {}, RuntimeConfig(), out, FileTracker(out))
    return open_configured(Artifact.of(out, "reward"), RuntimeConfig())


def test_terms_as_they_are_and_their_sum_as_ppo_takes_it(tmp_path: Path) -> None:
    length = RewardTermConfig("length", weight=-0.5, clip=3.0)
    reward = opened(tmp_path, length, RewardTermConfig("constant", weight=2.0))
    found = reward.score(episodes("one", "one two three four"))
    assert found["length"].tolist() == [1.0, 4.0]
    # 2 - 0.5 * 1 and 2 - 0.5 * 3: four words count as three
    assert found["score"].tolist() == [1.5, 0.5]


def differences(before, after):
    """The paired differences of an evaluation's rows of prompts."""
    compared = with_conditions(BENCHMARKS["prompts"].quantities(before), before)
    return compare("prompts", compared, list(zip(before, after, strict=True)), INTERVALS)


def test_a_plug_ins_term_is_evaluated_before_and_after_paired_and_by_term(tmp_path: Path) -> None:
    @register("shouting_here")
    def shouting(given):
        return [float(e.response.isupper()) for e in given]

    try:
        terms = (RewardTermConfig("shouting_here", 2.0), RewardTermConfig("length", -1.0))
        reward = opened(tmp_path, *terms)
        gold = GoldUtility(GoldConfig())
        before = judged(episodes("no", "no no"), "closed", gold, None, reward)
        after = judged(episodes("NO", "NO NO"), "closed", gold, None, reward)
    finally:
        del FUNCTIONS["shouting_here"]
    assert [row["reward"] for row in before] == [-1.0, -2.0]
    assert [row["reward_shouting_here"] for row in after] == [1.0, 1.0]
    assert summarise(after, INTERVALS)["reward_length"].value == 1.5
    found = differences(before, after)
    gains = {d.quantity.name: d.change.value for d in found if d.condition == "all"}
    assert gains["reward_gain"] == 2.0
    assert gains["reward_gain_shouting_here"] == 1.0
    assert gains["reward_gain_length"] == 0.0
    assert "gold_gain" not in gains  # nothing of Atlas where no prompt has an answer


def test_a_term_normalised_over_an_update_has_no_total(tmp_path: Path) -> None:
    reward = opened(tmp_path, RewardTermConfig("length", normalise="batch"))
    assert set(reward.score(episodes("a b"))) == {"length"}
    notes = json.loads((tmp_path / "reward" / "notes.json").read_text())
    assert "no total" in notes[0]


def test_a_reward_names_the_models_that_its_store_holds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("reward", "a" * 16)
    folder.mkdir(parents=True)
    config = RewardConfig()
    run(config, {}, RuntimeConfig(), folder, FileTracker(folder))
    store.publish(Manifest("reward", "reward", "a" * 16, {}, {"rm": "b" * 16}))
    with pytest.raises(
        ArtifactError, match=r"needs rm/b{16}, .* does not hold.* copy rm/b{16} into"
    ):
        open_configured(Artifact.at(folder), RuntimeConfig())
    judged = store.folder("reward", "c" * 16)
    judged.mkdir(parents=True)
    run(config, {}, RuntimeConfig(), judged, FileTracker(judged))
    store.publish(Manifest("reward", "reward", "c" * 16, {}, {"judge": "d" * 16}))
    with pytest.raises(ArtifactError, match=r"needs its judge <kind>/d{16}, .* does not hold"):
        open_configured(Artifact.at(judged), RuntimeConfig())


def test_a_reward_opens_the_judge_that_its_store_holds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    reward, judge = store.folder("reward", "a" * 16), store.folder("sft", "b" * 16)
    reward.mkdir(parents=True)
    judge.mkdir(parents=True)
    saved_policy(judge, 3, context=512)
    store.publish(Manifest("sft", "sft", "b" * 16, {}, {}))
    config = RewardConfig([RewardTermConfig("judge", 2.0)])
    run(config, {}, RuntimeConfig(), reward, FileTracker(reward))
    store.publish(Manifest("reward", "reward", "a" * 16, {}, {"judge": "b" * 16}))
    opened = open_configured(Artifact.at(reward), RuntimeConfig(device="cpu"))
    found = opened.score(episodes("red", "blue tall"))
    alone = LocalJudge(load_policy(judge / "model"), 1)
    expected = GradingJudge(JudgeTermConfig(), alone).score(episodes("red", "blue tall"))["score"]
    np.testing.assert_allclose(found["judge"], expected, atol=1e-5)
    np.testing.assert_allclose(found["score"], 2 * expected, atol=1e-5)


def test_no_function_may_have_the_totals_name() -> None:
    with pytest.raises(ConfigError, match=r"'score'\) must have a name .* none of rm, .*score"):
        register("score")


def test_a_reward_node_is_checked_as_ppos_reward_is(composed: Callable) -> None:
    goal = "run.goals=[reward]"
    composed(goal)
    with pytest.raises(ConfigError, match=r"reward.ensemble.rule .* node reward has one rm input"):
        composed(goal, "reward.ensemble.rule=worst")
    with pytest.raises(ConfigError, match=r"not hold rm where node reward has no rm input"):
        composed(goal, "nodes.reward.inputs.rm=null")


def test_the_one_term_of_a_reward_is_not_told_twice(tmp_path: Path) -> None:
    reward = opened(tmp_path, RewardTermConfig("length"))
    gold = GoldUtility(GoldConfig())
    rows = judged(episodes("a b", "a"), "closed", gold, None, reward)
    found = differences(rows, rows)
    names = {d.quantity.name for d in found}
    assert "reward_gain" in names
    assert "reward_gain_length" not in names
    assert np.isfinite([d.change.value for d in found]).all()
