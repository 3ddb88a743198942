"""Planted noise and taste for length come back from rankings alone."""

import dataclasses

import numpy as np
import pytest
from worlds.rankings import chat

from plumbrule.data.records import Preference
from rlhf.feedback.rankings import ranks_of, reversed_ranking
from rlhf.reward_model.label_audit import FLIPPING, audit, fit


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    """A quarter of them, since most of an audit's time is theirs."""
    monkeypatch.setattr("rlhf.reward_model.label_audit.NUM_RESAMPLES", 50)


def rankings(noise, taste, number=600, seed=0):
    """Return rankings of four answers each by a labeller of known noise and taste."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(number):
        utilities = rng.choice([0.0, 0.5, 1.0, 2.5], 4) + rng.choice([0.0, 0.25], 4)
        words = rng.integers(1, 25, 4)
        perceived = utilities + taste * words / 10 + noise * rng.normal(size=4)
        responses = tuple(" ".join(["word"] * n) + f" {k}" for k, n in enumerate(words - 1))
        made.append(
            Preference(
                f"p{i}",
                chat(f"question {i}"),
                responses,
                ranks_of(list(perceived), 0.0),
                utilities=tuple(utilities),
            )
        )
    return made


@pytest.mark.parametrize(("noise", "taste"), [(0.5, 0.0), (0.3, 0.4), (1.0, -0.3)])
def test_what_was_planted_lies_in_its_interval(noise, taste):
    found = audit(rankings(noise, taste))
    for name, planted in (("noise", noise), ("length_taste", taste)):
        interval = found[name]
        assert interval.low <= planted <= interval.high
        assert interval.high - interval.low < 0.2  # wide enough to hold anything proves nothing


def test_nothing_planted_is_found_to_be_nothing():
    found = audit(rankings(0.0, 0.0, number=200))
    assert found["noise"].value == 0.0
    assert found["noise"].reason == "no spread between groups"
    assert abs(found["length_taste"].value) < 0.02
    assert found["length_taste"].low <= 0.0 <= found["length_taste"].high


def test_fit_by_hand():
    # Equal gaps of utility 1, three of four the right way round: Phi(1 / (sqrt(2) s)) = 0.75, so
    # 1 / (sqrt(2) s) = 0.67449 and s = 1.04836. Words do not differ, so there is no taste to find.
    pairs = np.array([[1.0, 0.0]] * 3 + [[-1.0, 0.0]])
    noise, taste, _ = fit(pairs)
    assert noise == pytest.approx(1.04836, abs=1e-3)
    assert taste == 0.0


def test_labels_with_wide_ties_are_not_audited():
    """Left out, they would make the labels look surer than they are."""
    made = [
        dataclasses.replace(p, ranks=ranks_of(p.utilities, 1.0))
        for p in rankings(0.0, 0.0, number=50)
    ]
    assert audit(made) == {}


def flipped_rankings(noise, share, number=600):
    coins = np.random.default_rng(7).random(number) < share
    made = [
        dataclasses.replace(
            p,
            ranks=reversed_ranking(p.ranks) if turned else p.ranks,
            flipped=bool(turned),
        )
        for p, turned in zip(rankings(noise, 0.0, number, seed=3), coins, strict=True)
    ]
    return made, coins.mean()


@pytest.mark.parametrize(("noise", "share"), [(0.1, 0.25), (0.5, 0.25), (0.3, 0.0)])
def test_planted_flips_are_told_from_noise(noise, share):
    made, flipped = flipped_rankings(noise, share)
    found = audit(made)
    for name, planted in (("noise", noise), ("flipped", flipped), ("length_taste", 0.0)):
        if not found[name].is_bounded:  # no resample found any either
            assert found[name].value == planted == 0.0
            continue
        assert found[name].low <= planted <= found[name].high
        assert name != "flipped" or found[name].high - found[name].low < 0.15


def test_which_rankings_were_flipped_is_not_read_but_that_some_may_be():
    made, _ = flipped_rankings(0.1, 0.25, number=150)
    found = audit(made)
    hidden = [dataclasses.replace(p, flipped=False) for p in made]
    assert audit(hidden) == found
    silent = [dataclasses.replace(p, flipped=None) for p in made]
    without = audit(silent)
    assert set(without) == {"noise", "length_taste"}
    assert without["noise"].low > found["noise"].high  # all of it would pass for noise


def test_a_fit_with_flips_by_hand():
    # One of four pairs is wrong at a narrow gap and at a wide one alike: flips and no noise.
    pairs = np.array([[1.0, 0.0], [4.0, 0.0]] * 3 + [[-1.0, 0.0], [-4.0, 0.0]])
    noise, _, flipped = fit(pairs, FLIPPING)
    assert flipped == pytest.approx(0.25, abs=1e-3)
    assert noise < 0.3


def test_rows_of_one_prompt_are_resampled_together():
    apart = rankings(0.5, 0.0, number=100)
    together = [
        dataclasses.replace(p, messages=apart[i // 10].messages) for i, p in enumerate(apart)
    ]
    one, other = audit(apart)["noise"], audit(together)["noise"]
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_few_prompts_are_too_few_and_nothing_is_resampled(monkeypatch):
    monkeypatch.setattr("rlhf.reward_model.label_audit.NUM_RESAMPLES", None)
    found = audit(rankings(0.5, 0.0, number=9))
    assert list(found) == ["noise", "length_taste"]
    assert found["noise"].reason == "too few: 9 groups of at least 10"


def test_rankings_without_known_utilities_say_nothing():
    bare = [
        Preference("p", chat("q"), ("a", "b"), (1, 2)),
        Preference("r", chat("s"), ("a", "b"), (2, 1)),
    ]
    assert audit(bare) == {}
