"""Perturbed answers, rankings from elsewhere, and the scores of a policy's own answers."""

import json

import numpy as np
import pytest
from worlds.rankings import chat, saved_policy, saved_rankings

from plumbrule.data.records import Preference
from plumbrule.lm.config import SamplingConfig
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.reward_model import stage as rm
from rlhf.reward_model.config import RMConfig
from rlhf.reward_model.perturbations import PHRASES, adversarial, pairs_to_perturb
from rlhf.reward_model.report_card import ScoredRanking

RIGHT = {"right": 2.0, "wrong": 0.0, "polite": 0.0}
WRONG = {"right": 0.0, "wrong": -1.5, "polite": 0.0}
POLITE = {"right": 2.0, "wrong": 0.0, "polite": 0.5}


def scored(i, responses, ranks, scores, terms=None):
    known = None if terms is None else {name: tuple(t[name] for t in terms) for name in RIGHT}
    preference = Preference(f"p{i}", chat(f"q {i}"), responses, ranks, terms=known)
    return ScoredRanking(preference, scores)


def by_length(texts):
    return np.array([float(len(text.split())) for _, _, text in texts])


def test_without_terms_all_pairs_are_perturbed_and_their_worse_answer_is_named():
    (one,) = pairs_to_perturb([scored(0, ("good", "bad bad"), (1, 2), (3.0, 1.0))])
    assert (one.worse, one.better_score, one.worse_score) == (1, 3.0, 1.0)


def test_with_terms_only_a_right_and_a_wrong_answer_make_a_pair():
    rankings = [
        scored(0, ("right", "polite"), (2, 1), (1.0, 2.0), [RIGHT, POLITE]),
        scored(1, ("right", "wrong"), (1, 2), (1.0, 2.0), [RIGHT, WRONG]),
        scored(2, ("right", "wrong"), (2, 1), (1.0, 2.0), [RIGHT, WRONG]),  # a noisy label
    ]
    found = pairs_to_perturb(rankings)
    assert [(p.preference.id, p.worse) for p in found] == [("p1", 1), ("p2", 1)]


def test_a_model_that_likes_length_is_fooled_by_length():
    """Scores are words: 9 to 3 as it was, 9 to 3 + 11 once the worse answer is made longer."""
    better, worse = " ".join(["a"] * 9), "b b b"
    rankings = [scored(i, (better, worse), (1, 2), (9.0, 3.0)) for i in range(4)]
    found = adversarial(pairs_to_perturb(rankings), by_length)
    assert {name: x["value"] for name, x in found.items()} == {
        "as_it_was": 1.0,
        "longer": 0.0,
        "politer": 0.0,
        "surer": 0.0,
    }
    assert found["longer"]["n"] == 4


def test_a_model_that_looks_at_nothing_else_than_the_right_word_is_not_fooled():
    rankings = [scored(i, ("gold", "lead"), (1, 2), (1.0, 0.0)) for i in range(4)]
    found = adversarial(
        pairs_to_perturb(rankings), lambda texts: np.array([float("gold" in t) for *_, t in texts])
    )
    assert {x["value"] for x in found.values()} == {1.0}


@pytest.mark.parametrize("name", PHRASES)
def test_dress_keeps_the_answer(name):
    assert "in Mera Hill." in PHRASES[name]("Bero bakes in Mera Hill.")


def test_no_pairs_no_numbers():
    assert adversarial([], by_length) == {}


def test_a_stage_writes_all_of_it(tmp_path):
    inputs = {
        "policy": Artifact.of(saved_policy(tmp_path / "policy"), "sft"),
        "preferences": Artifact.of(saved_rankings(tmp_path / "rankings", 60, 20), "data"),
        "ood": Artifact.of(saved_rankings(tmp_path / "others", 4, 16, seed=9), "data"),
    }
    out = tmp_path / "out"
    out.mkdir()
    config = RMConfig(batch_size=5, learning_rate=3e-3, sampling=SamplingConfig(max_new_tokens=6))
    metrics = rm.run(config, inputs, RuntimeConfig(device="cpu"), out, NullTracker())
    card = json.loads((out / "report_card.json").read_text("utf-8"))
    assert set(card["adversarial"]) == {"as_it_was", *PHRASES}
    assert card["adversarial"]["as_it_was"]["value"] == pytest.approx(card["accuracy"]["value"])
    assert card["elsewhere"]["ood"]["accuracy"]["n"] == 16 * 3
    assert metrics["rm/accuracy_ood"] == card["elsewhere"]["ood"]["accuracy"]["value"] > 0.7
    own = card["own_answers"]
    assert own["lowest"] <= own["5 %"] <= own["median"] <= own["95 %"] <= own["highest"]
    assert own["lowest"] < 0 < own["highest"]
