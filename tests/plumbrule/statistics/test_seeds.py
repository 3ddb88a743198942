"""Runs of several seeds: each measure against hand arithmetic and a loop from the paper."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from plumbrule.statistics import (
    bootstrap_interval,
    holm,
    improvement_interval,
    improvement_probability,
    interquartile_mean,
    paired_p_value,
    performance_profile,
)


def looped_interquartile_mean(values: list[float]) -> float:
    """Sort, drop floor(n / 4) values at each end, add up the rest."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return math.fsum(kept) / len(kept)


def test_the_interquartile_mean_leaves_a_quarter_out_at_each_end() -> None:
    # 1 2 | 3 4 5 6 | 7 100: (3 + 4 + 5 + 6) / 4 = 4.5
    assert interquartile_mean([100, 1, 7, 2, 6, 3, 5, 4]) == 4.5
    assert interquartile_mean([1.0, 2.0, 9.0]) == 4.0  # nothing to leave out of three
    rng = random.Random(0)
    for n in range(1, 30):
        values = [rng.gauss(0, 3) for _ in range(n)]
        assert interquartile_mean(values) == pytest.approx(
            looped_interquartile_mean(values), abs=1e-12
        )


def test_a_bootstrap_of_three_values_is_that_of_its_27_resamples() -> None:
    """All resamples of 3 values can be written down: the quantiles of their means."""
    values = [0.0, 3.0, 12.0]
    means = sorted((a + b + c) / 3 for a in values for b in values for c in values)
    found = bootstrap_interval(values, num_resamples=200_000)
    assert (found.value, found.n) == (5.0, 3)
    # 1 of 27 is 0, more than 2.5 %: the bounds are the lowest and the highest mean
    assert (found.low, found.high) == (means[0], means[-1]) == (0.0, 12.0)
    middle = bootstrap_interval(values, confidence=0.5, num_resamples=200_000)
    assert (middle.low, middle.high) == (means[6], means[20])
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_one_seed_and_equal_seeds_have_no_bootstrap() -> None:
    assert not bootstrap_interval([1.0]).is_bounded
    assert bootstrap_interval([1.0]).reason == "too few: 1 seed"
    assert bootstrap_interval([2.0, 2.0]).reason.startswith("no spread")
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval([1.0, math.nan])


def test_the_probability_of_improvement_counts_pairs_and_halves_of_ties() -> None:
    # pairs of (1, 3) with (0, 1, 2): 1 > 0, 1 = 1, 3 > 0, 3 > 1, 3 > 2: 4.5 of 6
    assert improvement_probability([1, 3], [0, 1, 2]) == 0.75
    rng = random.Random(1)
    for _ in range(20):
        x = [float(rng.randint(0, 4)) for _ in range(rng.randint(1, 6))]
        y = [float(rng.randint(0, 4)) for _ in range(rng.randint(1, 6))]
        won = math.fsum(1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y)
        assert improvement_probability(x, y) == pytest.approx(won / len(x) / len(y), abs=1e-12)
        assert improvement_probability(y, x) == pytest.approx(1 - won / len(x) / len(y), abs=1e-12)


def test_the_interval_of_an_improvement_holds_it_and_needs_two_runs_a_side() -> None:
    found = improvement_interval([1.0, 3.0, 2.0, 5.0], [0.0, 1.0, 2.0, 4.0])
    assert found.low < found.value < found.high
    assert 0 <= found.low <= found.high <= 1
    assert not improvement_interval([1.0], [0.0, 2.0]).is_bounded
    assert not improvement_interval([5.0, 6.0], [0.0, 2.0]).is_bounded  # 1 in every resample


def test_a_profile_is_the_share_of_runs_above_each_threshold() -> None:
    found = performance_profile([0.0, 1.0, 1.0, 4.0], [-1.0, 0.0, 1.0, 3.9, 4.0])
    assert found.tolist() == [1.0, 0.75, 0.25, 0.25, 0.0]


def test_a_paired_p_value_is_students() -> None:
    # differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt(3); with 2 degrees of freedom the
    # two-sided p is 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14)
    found = paired_p_value([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert found == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-12)
    assert math.isnan(paired_p_value([0.0], [1.0]))
    assert math.isnan(paired_p_value([0.0, 1.0], [1.0, 2.0]))
    assert math.isnan(paired_p_value([0.1, 0.2, 0.3], [1.1, 1.2, 1.3]))  # equal but for rounding


def looped_holm(p: list[float]) -> list[float]:
    """Adjusted p of each: the greatest, over those not above it, of (k - rank) times theirs."""
    k = len(p)
    order = sorted(range(k), key=lambda i: p[i])
    found = [0.0] * k
    for place, i in enumerate(order):
        found[i] = min(1.0, max((k - j) * p[order[j]] for j in range(place + 1)))
    return found


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06 again, 0.5 * 1
    assert holm([0.5, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    kept = holm([math.nan, 0.02, 0.5])
    assert math.isnan(kept[0])
    assert kept[1:].tolist() == [0.04, 0.5]
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.uniform(size=rng.integers(1, 9)).tolist()
        assert holm(p).tolist() == pytest.approx(looped_holm(p), abs=1e-12)
