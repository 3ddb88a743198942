"""Planted noise and taste for length come back from rankings alone."""

import dataclasses

import numpy as np
import pytest
from tiny_rankings import chat

from plumbrule.records import Preference
from rlhf.label_audit import audit, fit
from rlhf.rankings import ranks_of


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
                meta={"utilities": list(utilities)},
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
    assert found["noise"].high == 0.0
    assert abs(found["length_taste"].value) < 0.02
    assert found["length_taste"].low <= 0.0 <= found["length_taste"].high


def test_fit_by_hand():
    # Equal gaps of utility 1, three of four the right way round: Phi(1 / (sqrt(2) s)) = 0.75, so
    # 1 / (sqrt(2) s) = 0.67449 and s = 1.04836. Words do not differ, so there is no taste to find.
    pairs = np.array([[1.0, 0.0]] * 3 + [[-1.0, 0.0]])
    noise, taste = fit(pairs)
    assert noise == pytest.approx(1.04836, abs=1e-3)
    assert taste == 0.0


def test_labels_with_wide_ties_are_not_audited():
    """Left out, they would make the labels look surer than they are."""
    made = [
        dataclasses.replace(p, ranks=ranks_of(list(p.meta["utilities"]), 1.0))
        for p in rankings(0.0, 0.0, number=50)
    ]
    assert audit(made) == {}


def test_rows_of_one_prompt_are_resampled_together():
    apart = rankings(0.5, 0.0, number=100)
    together = [
        dataclasses.replace(p, messages=apart[i // 10].messages) for i, p in enumerate(apart)
    ]
    one, other = audit(apart)["noise"], audit(together)["noise"]
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_rankings_without_known_utilities_say_nothing():
    bare = [
        Preference("p", chat("q"), ("a", "b"), (1, 2)),
        Preference("r", chat("s"), ("a", "b"), (2, 1)),
    ]
    assert audit(bare) == {}
