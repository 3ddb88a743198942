"""Terms as PPO opens them: ensembles, transforms before the sum, repeats, what goes wrong."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import ppo as world

from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.adapters import with_adapter
from plumbrule.lm.config import AdapterConfig
from plumbrule.protocols import Episode
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.stage import run
from rlhf.reward_model.model import RewardModel, RewardScorer
from rlhf.reward_model.reward_stats import RewardStats
from rlhf.rewards.config import EnsembleConfig, RewardConfig, RewardTermConfig
from rlhf.rewards.ensemble import Ensemble, averaged, combine
from rlhf.rewards.terms import FunctionScorer, score_distinct
from rlhf.rewards.transforms import prepare_terms, standardise

PROMPT = world.prompts(1)[0]


def said(*texts):
    return [Episode(PROMPT, (), text, True) for text in texts]


class Given:
    """A scorer of fixed scores."""

    def __init__(self, scores):
        self.scores = np.array(scores)

    def score(self, episodes):
        return {"score": self.scores}


@pytest.mark.parametrize(
    ("rule", "penalty", "wanted"),
    [
        ("mean", 1.0, [2.0, 1.0]),
        ("worst", 1.0, [1.0, -2.0]),
        # variances over the models: 2/3 and 6
        ("uncertainty", 0.5, [2.0 - 1 / 3, 1.0 - 3.0]),
        ("uncertainty", 0.0, [2.0, 1.0]),
    ],
)
def test_rules_of_an_ensemble_by_hand(rule, penalty, wanted):
    scorers = {
        "rm": Given([1.0, -2.0]),
        "rm_1": Given([2.0, 1.0]),
        "rm_2": Given([3.0, 4.0]),
    }
    found = Ensemble(scorers, EnsembleConfig(rule, penalty)).score(said("a", "b"))
    assert found["score"].tolist() == pytest.approx(wanted)
    assert found["rm_1"].tolist() == [2.0, 1.0]
    assert found["std"].tolist() == pytest.approx([np.sqrt(2 / 3), np.sqrt(6)])


def test_one_reward_model_has_no_spread():
    found = Ensemble({"rm": Given([1.0, 2.0])}, EnsembleConfig()).score(said("a", "b"))
    assert list(found) == ["score"]


def test_weights_are_no_rule_of_scores():
    with pytest.raises(ValueError, match=r"weights"):
        combine(np.zeros((2, 3)), EnsembleConfig("weights"))


def judges(uses_token_logprobs=False):
    stats = [
        RewardStats(mean=0.5, std=2.0, uses_token_logprobs=uses_token_logprobs),
        RewardStats(mean=-1.0, std=0.5, uses_token_logprobs=uses_token_logprobs),
    ]
    return [RewardModel(world.tiny_policy(spread=0.5), s, seed=i) for i, s in enumerate(stats)]


@pytest.mark.parametrize("uses_token_logprobs", [False, True])
def test_models_of_one_trunk_average_to_the_mean_of_their_normalised_scores(uses_token_logprobs):
    """With equal trunks scores are linear in the heads, so weights and scores average alike."""
    models = judges(uses_token_logprobs)
    episodes = said("gold rain", "sun", "red gold wind")
    apart = [RewardScorer(m, 4).score(episodes)["score"] for m in models]
    together = RewardScorer(averaged(models), 4).score(episodes)["score"]
    assert together.tolist() == pytest.approx(np.mean(apart, axis=0).tolist(), abs=1e-5)


def test_trunks_are_averaged_too():
    models = judges()
    with torch.no_grad():
        for weight in models[1].trunk.parameters():
            weight += 1.0
    before = next(models[0].trunk.parameters()).clone()
    mean = next(averaged(models).trunk.parameters())
    assert torch.allclose(mean, before + 0.5)


def test_models_of_different_heads_can_not_be_averaged():
    with pytest.raises(ConfigError, match=r"=weights"):
        averaged([judges()[0], judges(uses_token_logprobs=True)[1]])


def test_adapters_can_not_be_averaged():
    config = AdapterConfig(rank=2)
    policies = [with_adapter(world.tiny_policy(), config, i, "rm.adapter") for i in range(2)]
    with pytest.raises(ConfigError, match=r"=weights\) must not be used for adapters"):
        averaged([RewardModel(policy) for policy in policies])


def test_terms_are_normalised_then_clipped_then_weighed():
    terms = {"rm": torch.tensor([1.0, 3.0, 5.0, 7.0]), "length": torch.tensor([9.0, 0.0, 0.0, 1.0])}
    config = [
        RewardTermConfig("rm", 2.0, normalise="batch", clip=1.0),
        RewardTermConfig("length", clip=2.0),
    ]
    prepared = prepare_terms(terms, config)
    # mean 4, population deviation sqrt 5
    assert prepared["rm"].normalised.tolist() == pytest.approx(
        [-1.3416, -0.4472, 0.4472, 1.3416], abs=1e-4
    )
    assert prepared["rm"].clipped.tolist() == pytest.approx([-1.0, -0.4472, 0.4472, 1.0], abs=1e-4)
    assert prepared["length"].normalised is terms["length"]
    assert prepared["length"].clipped.tolist() == [2.0, 0.0, 0.0, 1.0]


def test_equal_values_normalise_to_nothing():
    assert standardise(torch.full((3,), 7.0)).tolist() == [0.0, 0.0, 0.0]
    # what a model computes in float32 arrives in float64, a last place apart
    alike = torch.tensor([0.7, 0.7, 0.70000005]).double()
    assert alike.std() > 0
    term = RewardTermConfig("rm", normalise="batch")
    prepared = prepare_terms({"rm": alike}, [term])
    assert prepared["rm"].normalised.tolist() == [0.0, 0.0, 0.0]


def test_equal_responses_are_scored_once_and_keep_their_order():
    asked = []

    def count(episodes):
        asked.append([e.response for e in episodes])
        return [len(e.response) for e in episodes]

    found = score_distinct("count", FunctionScorer(count), said("bb", "a", "bb", "ccc", "a"))
    assert asked == [["bb", "a", "ccc"]]
    assert found["score"].tolist() == [2.0, 1.0, 2.0, 3.0, 1.0]


def test_equal_responses_that_end_differently_are_two():
    episodes = [*said("a"), Episode(PROMPT, (), "a", False), Episode(PROMPT, ("x",), "a", True)]
    found = score_distinct("n", FunctionScorer(lambda some: list(range(len(some)))), episodes)
    assert found["score"].tolist() == [0.0, 1.0, 2.0]


def raises(episodes):
    raise KeyError("color")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, "reward term mine raised KeyError on 2 responses"),
        (lambda episodes: [1.0], r"reward term mine \(=shape \(1,\)\)"),
        (lambda episodes: 1.0, r"reward term mine \(=shape \(\)\)"),
        (lambda episodes: [[1.0], [2.0]], r"reward term mine \(=shape \(2, 1\)\)"),
        (lambda episodes: ["good", "bad"], "reward term mine raised ValueError"),
        (lambda episodes: None, r"reward term mine \(=shape \(\)\)"),
    ],
)
def test_a_function_that_fails_is_named(function, message):
    with pytest.raises(TrainingError, match=message):
        score_distinct("mine", FunctionScorer(function), said("a", "b"))


def test_a_run_logs_each_term_before_and_after_each_step(tmp_path):
    inputs = world.build(tmp_path)
    inputs["rm_1"] = replace(inputs["rm"], opener=f"{__name__}:open_half")
    reward = RewardConfig(
        [
            RewardTermConfig("rm", 2.0),
            RewardTermConfig("length", -0.1, normalise="batch", clip=1.0),
        ],
        EnsembleConfig("worst"),
    )
    config = world.config(total_episodes=32, reward=reward, missing_eos_penalty=0.0)
    out = tmp_path / "out"
    out.mkdir()
    run(config, inputs, world.runtime(), out, FileTracker(out))
    for row in read_metrics(out):
        assert row["reward/rm/rm_1_raw"] == pytest.approx(0.5)
        assert row["reward/rm_raw"] <= min(0.5, row["reward/rm/rm_raw"]) + 1e-9
        assert row["reward/rm/std_raw"] > 0
        assert row["reward/length_normalised"] == pytest.approx(0.0, abs=1e-9)
        assert row["reward/length"] == pytest.approx(-0.1 * row["reward/length_clipped"])
        total = 2.0 * row["reward/rm_raw"] + row["reward/length"]
        assert row["objective/scores_raw"] == pytest.approx(total)


def test_a_reward_that_is_not_a_number_stops_the_run_and_keeps_its_rollout(tmp_path):
    inputs = world.build(tmp_path)
    inputs["rm"] = replace(inputs["rm"], opener=f"{__name__}:open_broken")
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainingError, match=r"reward term rm of update 1 must be finite.* kept"):
        run(
            world.config(), inputs, world.runtime(), tmp_path / "out", FileTracker(tmp_path / "out")
        )
    assert list((tmp_path / "out" / "checkpoints").glob("failed-*.parquet"))


def open_half(artifact, runtime):
    return FunctionScorer(lambda episodes: [0.5 for _ in episodes])


def open_broken(artifact, runtime):
    return FunctionScorer(lambda episodes: [float("nan") for _ in episodes])


def test_a_function_that_raises_is_named_with_file_and_line(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("def mine(episodes):\n    return [e.nothing for e in episodes]\n")
    names: dict = {}
    exec(compile(plugin.read_text(), str(plugin), "exec"), names)
    says = rf"term mine raised AttributeError on 1 responses \({re.escape(str(plugin))}, line 2\)"
    with pytest.raises(TrainingError, match=says) as caught:
        score_distinct("mine", FunctionScorer(names["mine"]), said("a"))
    assert isinstance(caught.value.__cause__, AttributeError)
