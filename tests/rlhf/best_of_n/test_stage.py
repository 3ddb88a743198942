"""Best of n and rejection sampling: the estimator against all subsets, the stages on files."""

import itertools
import json
import math

import numpy as np
import pytest
from worlds.rankings import saved_policy, saved_prompts, saved_rankings

from plumbrule.data.records import Demonstration, Message, Prompt, read_records
from plumbrule.errors import ConfigError, DataError, TrainingError
from plumbrule.lm.config import SamplingConfig
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.best_of_n import reject_stage
from rlhf.best_of_n import stage as best_of_n
from rlhf.best_of_n.config import BestOfNConfig, RejectConfig
from rlhf.best_of_n.stage import best_of, sizes
from rlhf.feedback import stage as feedback
from rlhf.feedback.config import FeedbackConfig
from rlhf.reward_model import stage as rm
from rlhf.reward_model.config import RMConfig
from rlhf.rewards.config import RewardConfig, RewardTermConfig
from rlhf.rewards.functions import _DIGESTS, FUNCTIONS
from rlhf.rewards.scored_answers import AnsweredPrompt, read_answers

RUNTIME = RuntimeConfig(device="cpu")
SAMPLING = SamplingConfig(max_new_tokens=6)


def over_all_subsets(n, rewards, values):
    """The mean over all subsets of what their best answer is worth, ties shared out."""
    found = []
    for subset in itertools.combinations(range(len(rewards)), n):
        top = max(rewards[i] for i in subset)
        best = [values[i] for i in subset if rewards[i] == top]
        found.append(sum(best) / len(best))
    return sum(found) / len(found)


def test_the_estimator_by_hand():
    # Three answers of rewards 1, 2, 3 and values 10, 0, 6. Two of three: {1,2} 0, {1,3} 6, {2,3} 6.
    rewards, values = np.array([1.0, 2.0, 3.0]), np.array([10.0, 0.0, 6.0])
    assert best_of(1, rewards, values) == pytest.approx(16 / 3)
    assert best_of(2, rewards, values) == pytest.approx(4.0)
    assert best_of(3, rewards, values) == 6.0


@pytest.mark.parametrize("seed", range(5))
def test_the_estimator_is_the_mean_over_all_subsets(seed):
    draw = np.random.default_rng(seed)
    rewards, values = draw.permutation(8).astype(float), draw.normal(size=8)
    for n in range(1, 9):
        wanted = over_all_subsets(n, rewards.tolist(), values.tolist())
        assert best_of(n, rewards, values) == pytest.approx(wanted, rel=1e-12)


def test_answers_with_equal_rewards_are_taken_equally_often():
    rewards, values = np.array([1.0, 1.0, 1.0]), np.array([0.0, 3.0, 9.0])
    assert [best_of(n, rewards, values) for n in (1, 2, 3)] == pytest.approx([4.0, 4.0, 4.0])
    assert best_of(2, rewards[::-1], values[::-1]) == pytest.approx(4.0)


def test_the_best_of_n_of_normal_rewards_is_their_expected_maximum():
    """Of two standard normals the larger is 1 / sqrt(pi) in the mean; 20,000 prompts of 8."""
    draws = np.random.default_rng(0).normal(size=(20_000, 8))
    found = np.mean([best_of(2, row, row) for row in draws])
    assert found == pytest.approx(1 / math.sqrt(math.pi), abs=0.01)


@pytest.mark.parametrize("n", [0, 4])
def test_a_size_that_is_not_there_is_refused(n):
    with pytest.raises(ValueError, match=r"n \(="):
        best_of(n, np.zeros(3), np.zeros(3))


def test_sizes_of_the_curve():
    assert sizes(None, 12) == [1, 2, 4, 8, 12]
    assert sizes(None, 1) == [1]
    assert sizes([3, 12], 12) == [1, 3, 12]
    with pytest.raises(ConfigError, match=r"best_of_n.sizes \(=50\)"):
        sizes([3, 50], 12)


def answered(*responses, finished=None):
    ends = tuple(finished or [True] * len(responses))
    return AnsweredPrompt(Prompt("p", (Message("user", "q"),)), (), responses, ends, None)


def test_the_best_answers_are_kept_once_and_only_if_they_ended():
    prompt = answered("cut", "best", "best", " ", "next", finished=[False, True, True, True, True])
    rewards = np.array([9.0, 5.0, 5.0, 7.0, 1.0])
    assert reject_stage.chosen(prompt, rewards, 1) == [1]
    assert reject_stage.chosen(prompt, rewards, 3) == [1, 4]
    assert reject_stage.chosen(answered("cut", finished=[False]), np.zeros(1), 1) == []


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A feedback artifact of six answers per prompt, and a reward model."""
    folder = tmp_path_factory.mktemp("best-of-n")
    policy = Artifact.of(saved_policy(folder / "policy"), "sft")
    prompts = Artifact.of(saved_prompts(folder / "prompts", 12, 6), "data")
    config = FeedbackConfig(num_responses=6, sampling=SAMPLING)
    (folder / "samples").mkdir()
    inputs = {"policy": policy, "prompts": prompts}
    feedback.run(config, inputs, RUNTIME, folder / "samples", NullTracker())
    path = folder / "samples" / "samples.jsonl"  # an untrained policy hardly ever ends by itself
    path.write_text(
        path.read_text("utf-8").replace('"finished": false', '"finished": true'), "utf-8"
    )
    rankings = Artifact.of(saved_rankings(folder / "rankings", 40, 10), "data")
    (folder / "rm").mkdir()
    settings = RMConfig(batch_size=5, learning_rate=3e-3, sampling=SAMPLING)
    inputs = {"policy": policy, "preferences": rankings}
    rm.run(settings, inputs, RUNTIME, folder / "rm", NullTracker())
    return {
        "samples": Artifact.of(folder / "samples", "feedback"),
        "rm": Artifact.of(folder / "rm", "rm", opener="rlhf.reward_model.model:open_reward"),
    }


def test_the_curve_rises_in_reward_and_begins_at_the_mean(given, tmp_path):
    metrics = best_of_n.run(BestOfNConfig(), given, RUNTIME, tmp_path, NullTracker())
    curve = json.loads((tmp_path / "curve.json").read_text("utf-8"))
    assert [point["n"] for point in curve] == [1, 2, 4, 6]
    rewards = [point["reward"]["value"] for point in curve]
    assert rewards == sorted(rewards)
    assert curve[0]["reward_gain"]["value"] == pytest.approx(0.0)
    assert curve[0]["kl_bound"] == 0.0
    assert curve[-1]["kl_bound"] == pytest.approx(math.log(6) - 5 / 6)
    answers = read_answers(given["samples"].file("samples.jsonl"), "validation")
    utilities = [u for p in answers for u in p.utilities]
    assert curve[0]["utility"]["value"] == pytest.approx(np.mean(utilities))
    assert metrics["best_of_n/n"] == 6
    assert metrics["best_of_n/prompts"] == len(answers) == 6
    written = json.loads((tmp_path / "intervals.json").read_text("utf-8"))
    gain = written["best_of_n/reward_gain"]
    assert gain["groups"] == len({p.prompt.meta.get("entity", p.prompt.id) for p in answers})
    assert gain["value"] == metrics["best_of_n/reward_gain"]
    assert metrics.get("best_of_n/reward_gain_low") == gain["low"]
    (table,) = json.loads((tmp_path / "tables.json").read_text("utf-8"))
    assert [row[0] for row in table["rows"]] == [1, 2, 4, 6]


def test_what_a_prompt_says_of_itself_reaches_the_reward(given, tmp_path, monkeypatch):
    """The gold utility reads it; so the reward is what feedback knew as the utility."""
    answers = read_answers(given["samples"].file("samples.jsonl"), "validation")
    assert {p.prompt.meta["answer"] for p in answers} == {"red"}
    reward = RewardConfig([RewardTermConfig("gold")])
    best_of_n.run(BestOfNConfig(reward=reward), given, RUNTIME, tmp_path, NullTracker())
    for point in json.loads((tmp_path / "curve.json").read_text("utf-8")):
        assert point["reward"] == point["utility"]
    monkeypatch.setitem(
        FUNCTIONS, "length", lambda episodes: [len(e.prompt.meta["answer"]) for e in episodes]
    )
    monkeypatch.setitem(_DIGESTS, "length", "of a plug-in")
    for stage, config in ((best_of_n, BestOfNConfig), (reject_stage, RejectConfig)):
        settings = config(reward=RewardConfig([RewardTermConfig("length")]))
        stage.run(settings, given, RUNTIME, tmp_path, NullTracker())


def test_a_rule_of_text_can_choose_too(given, tmp_path):
    reward = RewardConfig([RewardTermConfig("length", -1.0)])
    config = BestOfNConfig(reward=reward, split="train", sizes=[2])
    best_of_n.run(config, given, RUNTIME, tmp_path, NullTracker())
    curve = json.loads((tmp_path / "curve.json").read_text("utf-8"))
    assert curve[-1]["reward"]["value"] > curve[0]["reward"]["value"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_not_a_number_is_named_and_chooses_nothing(
    given, tmp_path, monkeypatch, bad
):
    monkeypatch.setitem(FUNCTIONS, "length", lambda episodes: [bad for _ in episodes])
    monkeypatch.setitem(_DIGESTS, "length", "of a plug-in")
    config = BestOfNConfig(reward=RewardConfig([RewardTermConfig("length")]))
    with pytest.raises(TrainingError, match=r"reward term length must be finite"):
        best_of_n.run(config, given, RUNTIME, tmp_path, NullTracker())


def test_rejection_writes_demonstrations_of_both_splits(given, tmp_path):
    metrics = reject_stage.run(RejectConfig(), given, RUNTIME, tmp_path, NullTracker())
    rows = read_records(Demonstration, tmp_path / "records.jsonl")
    assert len(rows) == metrics["reject/demonstrations"] <= 12
    assert read_records(Demonstration, tmp_path / "validation.jsonl")
    kept = {p.prompt.id: p for p in read_answers(given["samples"].file("samples.jsonl"), "train")}
    for row in rows:
        assert row.response in kept[row.id.split("/")[0]].responses
    assert metrics["reject/reward_gain"] > 0  # over the answers that ended


def test_a_split_without_answers_is_named(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"split train"):
        read_answers(path, "train")


@pytest.mark.parametrize("given_sizes", [[0], [2, 2]])
def test_sizes_out_of_range_are_refused(given_sizes):
    with pytest.raises(ConfigError, match=r"best_of_n.sizes"):
        BestOfNConfig(sizes=given_sizes)
