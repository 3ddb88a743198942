"""Power against simulation and published values; the verb `power`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from plumbrule.cli.verbs.power import describe
from plumbrule.errors import ConfigError
from plumbrule.statistics import seed_interval
from plumbrule.statistics.power import fewest, seed_power, share_power


def test_power_over_seeds_is_that_of_the_paired_t_test():
    # Cohen 1988, table 2.3.5 for one sample: d = 0.5, n = 34 has 80 % at 5 %, two-sided.
    assert seed_power(0.5, 1.0, 34) == pytest.approx(0.808, abs=2e-3)
    assert fewest(lambda n: seed_power(0.5, 1.0, n), 0.8) == 34
    assert seed_power(0.0, 1.0, 5) == pytest.approx(0.05, abs=1e-6)


def test_power_over_seeds_by_simulation():
    rng = np.random.default_rng(0)
    draws = rng.normal(1.0, 0.8, (4000, 5))
    shown = [not one.low <= 0 <= one.high for one in map(seed_interval, draws.tolist())]
    assert seed_power(1.0, 0.8, 5) == pytest.approx(np.mean(shown), abs=0.025)  # 3 errors


def test_power_over_prompts_by_hand():
    # Two shares of 0.5 and 0.6, unpaired: variance 0.49; 400 prompts: 0.1 / 0.035 = 2.857 errors;
    # 1 - Phi(1.960 - 2.857) = 0.815.
    assert share_power(0.5, 0.6, 400) == pytest.approx(0.8152, abs=1e-3)
    assert share_power(0.5, 0.5, 400) == pytest.approx(0.05, abs=1e-6)
    # pairs that agree are surer: variance 0.49 - 2 * 0.5 * sqrt(0.25 * 0.24) = 0.2451
    assert share_power(0.5, 0.6, 200, correlation=0.5) == pytest.approx(0.8150, abs=1e-3)
    # 5 prompts of a source that correlate by 0.25 count for half
    half = share_power(0.5, 0.6, 800, per_group=5, within=0.25)
    assert half == pytest.approx(share_power(0.5, 0.6, 400))


def test_the_fewest_reach_the_power_and_one_less_does_not():
    number = fewest(lambda n: share_power(0.5, 0.6, n), 0.8)
    assert number is not None
    assert share_power(0.5, 0.6, number) >= 0.8 > share_power(0.5, 0.6, number - 1)
    assert fewest(lambda n: share_power(0.5, 0.5, n), 0.8) is None


@pytest.mark.parametrize("given", [(0.0, 0.5, 100), (0.5, 1.0, 100), (0.5, 0.6, 1)])
def test_shares_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match="must lie in"):
        share_power(*given)


def test_the_verb_says_how_many():
    found = describe(effect=0.5, deviation=1.0, share=None, power=0.8, confidence=0.95)
    assert found == {"unit": "seeds", "effect": 0.5, "power": 0.8, "fewest": 34}
    found = describe(effect=0.1, deviation=None, share=0.5, power=0.8, confidence=0.95)
    assert found["unit"] == "prompts"
    assert json.dumps(found)
    assert 380 < found["fewest"] < 400


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"deviation": None, "share": None}, "name one"),
        ({"deviation": 1.0, "share": 0.5}, "name one"),
        ({"deviation": 0.0, "share": None}, "deviation"),
        ({"deviation": None, "share": 0.95}, "share"),
        ({"deviation": 1.0, "share": None, "power": 1.0}, "power"),
        ({"deviation": 1.0, "share": None, "effect": 0.0}, "effect"),
    ],
)
def test_what_the_verb_can_not_answer_is_refused(given, said):
    settings = {"effect": 0.1, "power": 0.8, "confidence": 0.95, **given}
    with pytest.raises(ConfigError, match=said):
        describe(**settings)
