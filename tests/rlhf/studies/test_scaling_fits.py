"""The laws of over-optimisation: fits that find planted coefficients, peaks by hand, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf.studies.scaling_fits import (
    BEST_OF_N,
    REINFORCEMENT,
    Coefficients,
    Curve,
    fit,
    gained,
    peak_of,
    solve,
)

LAWS = [REINFORCEMENT, BEST_OF_N]


def planted(law, alpha, beta, level=0.0, noise=0.0, seed=0, far=3.0):
    """Return a curve of the law with normal noise."""
    distances = np.linspace(0.0, far, 40)
    gold = level + gained(law, Coefficients(level, alpha, beta), distances)
    return Curve(distances, gold + np.random.default_rng(seed).normal(0, noise, 40))


@pytest.mark.parametrize("law", LAWS)
def test_a_fit_finds_what_was_planted(law):
    curve = planted(law, 1.3, 0.6, level=0.4 if law.has_level else 0.0)
    found = solve(law, curve.distances, curve.means())
    assert found.alpha == pytest.approx(1.3, rel=1e-9)
    assert found.beta == pytest.approx(0.6, rel=1e-9)
    assert found.level == pytest.approx(0.4 if law.has_level else 0.0, abs=1e-9)


def test_gains_and_peaks_by_hand():
    assert gained(REINFORCEMENT, Coefficients(0, 2.0, 1.0), np.array([0.0, 1.0, math.e])) == (
        pytest.approx([0.0, 2.0, math.e])
    )
    assert gained(BEST_OF_N, Coefficients(0, 2.0, 0.5), np.array([0.0, 2.0])) == (
        pytest.approx([0.0, 2.0])
    )
    assert peak_of(REINFORCEMENT, Coefficients(0, 2.0, 1.0), 5.0) == pytest.approx(math.e)
    assert peak_of(BEST_OF_N, Coefficients(0, 2.0, 0.5), 5.0) == pytest.approx(2.0)
    for law, beta in ((REINFORCEMENT, 0.0), (BEST_OF_N, -0.5)):
        assert peak_of(law, Coefficients(0, 2.0, beta), 5.0) == math.inf
        assert peak_of(law, Coefficients(0, -3.0, beta), 5.0) == 0.0


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("alpha", "beta"), [(1.3, 0.6), (0.5, 0.3), (2.0, 1.5)])
def test_the_gain_is_highest_at_the_peak(law, alpha, beta):
    grid = np.linspace(1e-6, 20, 200_001)
    values = gained(law, Coefficients(0, alpha, beta), grid)
    assert grid[np.argmax(values)] == pytest.approx(
        peak_of(law, Coefficients(0, alpha, beta), 20.0), abs=2e-4
    )


@pytest.mark.parametrize("law", LAWS)
def test_intervals_hold_the_truth_as_often_as_they_say(law):
    """60 planted curves with noise: 95 % intervals of alpha and beta miss it a few times."""
    misses = {"alpha": 0, "beta": 0}
    for seed in range(60):
        curve = planted(law, 1.3, 0.6, noise=0.1, seed=seed)
        found = fit(law, [curve], num_resamples=200, seed=seed)
        for name, truth in (("alpha", 1.3), ("beta", 0.6)):
            interval = getattr(found, name)
            misses[name] += not interval.low <= truth <= interval.high
            assert interval.low < interval.high
    # With 5 % in truth, 12 or more of 60 have a chance of 1e-4, none of 120 one of 2e-3.
    assert all(number < 12 for number in misses.values()), misses
    assert sum(misses.values()) > 0


def test_a_curve_that_falls_behind_its_peak_says_so_and_one_that_does_not_does_not():
    turning = fit(REINFORCEMENT, [planted(REINFORCEMENT, 1.0, 1.0, noise=0.02)], num_resamples=200)
    assert turning.peak.value == pytest.approx(1.0, abs=0.1)
    assert turning.turns == 1.0
    # 1 at the peak d = 1, 3 (1 - log 3) at the end.
    assert turning.decline.value == pytest.approx(1 - 3 * (1 - math.log(3)), abs=0.05)
    assert turning.decline.low > 0
    rising = fit(REINFORCEMENT, [planted(REINFORCEMENT, 2.0, 0.2, noise=0.02)], num_resamples=200)
    assert rising.turns == 0.0
    assert (rising.decline.value, rising.decline.n, rising.decline.is_bounded) == (0.0, 40, False)
    straight = fit(BEST_OF_N, [planted(BEST_OF_N, 2.0, -0.2)], num_resamples=100)
    assert straight.peak.value > 1e12


@pytest.mark.parametrize("law", LAWS)
def test_gold_that_falls_from_the_start_is_a_decline(law):
    """Alpha and beta below 0: there is no stationary maximum, and no less of a decline."""
    curve = planted(law, -1.0, -0.05, noise=0.02)
    found = fit(law, [curve], num_resamples=200)
    lost = -gained(law, Coefficients(0, -1.0, -0.05), np.array([3.0]))[0]
    assert found.decline.value == pytest.approx(lost, abs=0.15)
    assert found.turns > 0.9
    assert found.peak.value < 0.1


@pytest.mark.parametrize("sizes", [[1, 2], [1, 1, 1]])
def test_best_of_two_can_not_be_fitted(sizes):
    distances = np.sqrt([math.log(n) - (n - 1) / n for n in sizes])
    with pytest.raises(ValueError, match="must hold two that are not 0"):
        fit(BEST_OF_N, [Curve(distances, np.ones((5, len(sizes))))], num_resamples=100)


def test_three_seeds_cover_what_differs_between_them():
    """Alpha differs by a deviation of .2: nominal 95 % covers it in at least 75 % of 60 studies."""
    random = np.random.default_rng(0)
    hits = 0
    for study in range(60):
        runs = [
            planted(REINFORCEMENT, 1.3 + random.normal(0, 0.2), 0.6, noise=0.05, seed=3 * study + s)
            for s in range(3)
        ]
        found = fit(REINFORCEMENT, runs, num_resamples=200, seed=study)
        hits += found.alpha.low <= 1.3 <= found.alpha.high
    assert hits >= 45, hits


def test_seeds_that_differ_widen_the_interval():
    alike = [planted(REINFORCEMENT, 1.3, 0.6, noise=0.05, seed=s) for s in range(4)]
    differing = [
        planted(REINFORCEMENT, 1.3 + shift, 0.6, noise=0.05, seed=s)
        for s, shift in enumerate((-0.5, 0.5, -0.3, 0.3))
    ]
    widths = [
        found.alpha.high - found.alpha.low
        for found in (fit(REINFORCEMENT, runs, num_resamples=400) for runs in (alike, differing))
    ]
    assert widths[1] > 3 * widths[0]


def test_prompts_are_drawn_together():
    """A point of best-of-n is a mean over prompts: what they share widens the interval."""
    random = np.random.default_rng(0)
    distances = np.linspace(0, 1.5, 6)
    shared = random.normal(0, 1, (50, 1)) * distances
    curve = Curve(distances, distances - 0.2 * distances**2 + shared)
    found = fit(BEST_OF_N, [curve], num_resamples=400)
    # alpha's error is that of a mean of 50 standard normal slopes: 1.96 / sqrt(50), twice
    assert found.alpha.high - found.alpha.low == pytest.approx(2 * 1.96 / math.sqrt(50), rel=0.25)


def test_too_few_distances_are_refused():
    with pytest.raises(ValueError, match="must hold two that are not 0, and 3 different ones"):
        fit(REINFORCEMENT, [Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))])
