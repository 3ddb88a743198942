"""What PPO may demand of its reward models."""

import json

import pytest
from worlds import ppo as world

from plumbrule.errors import ConfigError, TrainingError
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.ppo.stage import run
from rlhf.rewards.accuracy_gate import shortcomings
from rlhf.rewards.config import RequireConfig


def measured(value, low=None, n=200):
    return {"value": value, "low": value - 0.05 if low is None else low, "high": 1.0, "n": n}


CARD = {
    "accuracy": measured(0.78, 0.74),
    "ece": measured(0.04),
    "rules": {"longer": measured(0.28), "courteous": measured(0.6)},
    "noise_free": {"by_difference": {"right_wrong": measured(0.55), "polite": measured(0.95)}},
}


@pytest.mark.parametrize(
    ("demanded", "said"),
    [
        ({}, []),
        ({"accuracy": 0.78, "every_kind": 0.5, "ece": 0.05, "beats_rules": True}, []),
        ({"accuracy": 0.8}, ["accuracy (=0.780 of 200 pairs) must be at least"]),
        ({"every_kind": 0.7}, ["pairs that differ in right_wrong (=0.550 of 200)"]),
        ({"ece": 0.03}, ["debiased ece (=0.040) must be at most"]),
        ({"accuracy": 0.9, "ece": 0.01}, ["accuracy (=0.780", "ece (=0.040)"]),
    ],
)
def test_shortcomings_by_hand(demanded, said):
    found = list(shortcomings(RequireConfig(**demanded), CARD))
    assert len(found) == len(said)
    for line, part in zip(found, said, strict=True):
        assert part in line


def test_a_rules_opposite_is_a_rule_too():
    """The interval from .74 lies above courtesy's .6, and above .72 for "shorter is better"."""
    assert not list(shortcomings(RequireConfig(beats_rules=True), CARD))
    worse = {**CARD, "rules": {"longer": measured(0.25)}}
    (line,) = shortcomings(RequireConfig(beats_rules=True), worse)
    assert "rule longer or its opposite (=0.750)" in line


def test_an_accuracy_without_an_interval_beats_no_rule():
    few = {"value": 0.9, "low": None, "high": None, "n": 40, "groups": 3, "reason": "too few"}
    (line,) = shortcomings(RequireConfig(beats_rules=True), {**CARD, "accuracy": few})
    assert "accuracy (=0.900 of 40 pairs) must have bounds" in line


def test_a_calibration_error_is_held_to_account_without_its_bias():
    card = {**CARD, "ece_debiased": {**measured(0.01), "low": None}}
    assert not list(shortcomings(RequireConfig(ece=0.02), card))
    assert list(shortcomings(RequireConfig(ece=0.005), card))


def test_what_was_not_measured_is_not_met():
    card = {name: value for name, value in CARD.items() if name != "noise_free"}
    (line,) = shortcomings(RequireConfig(every_kind=0.1), card)
    assert "no utilities" in line


def test_ppo_stops_before_a_policy_loads_and_goes_on_where_it_is_met(tmp_path):
    inputs = world.build(tmp_path)
    (inputs["rm"].path / "report_card.json").write_text(json.dumps(CARD), "utf-8")
    weights = inputs["policy"].path / "model" / "model.safetensors"
    away = weights.rename(weights.with_suffix(".away"))
    (tmp_path / "out").mkdir()
    config = world.config(total_episodes=16, require_rm=RequireConfig(accuracy=0.8))
    with pytest.raises(TrainingError, match=r"rm: accuracy .*does not train against it"):
        run(config, inputs, world.runtime(), tmp_path / "out", NullTracker())
    away.rename(weights)
    config.require_rm = RequireConfig(accuracy=0.7)
    run(config, inputs, world.runtime(), tmp_path / "out", NullTracker())


def test_what_is_no_share_is_refused():
    with pytest.raises(ConfigError, match=r"ppo.require_rm.accuracy"):
        RequireConfig(accuracy=80.0)
