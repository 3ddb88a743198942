"""Intervals and scores: hand values, loops written from the definitions, and coverage."""

import math

import numpy as np
import pytest

from plumbrule.statistics import (
    auroc,
    auroc_interval,
    calibration_error,
    chance_spread,
    gap_interval,
    mean_interval,
    paired_interval,
    share_interval,
    spearman,
    spread_interval,
    wilson,
)


def loop_bootstrap_means(values, groups, draws):
    """Means of resamples, group by group, with the group numbers of `draws` (r, G)."""
    names = list(dict.fromkeys(groups))
    means = []
    for draw in draws:
        kept = [v for g in draw for v, name in zip(values, groups, strict=True) if name == names[g]]
        means.append(sum(kept) / len(kept))
    return means


def test_mean_interval_equals_a_loop_over_the_same_draws():
    values, groups = [1.0, 2.0, 4.0, 8.0, 16.0], ["a", "a", "b", "c", "c"]
    ours = mean_interval(values, groups, confidence=0.9, num_resamples=50, seed=7)
    draws = np.random.default_rng(7).integers(3, size=(50, 3))
    low, high = np.quantile(loop_bootstrap_means(values, groups, draws), (0.05, 0.95))
    assert ours.value == pytest.approx(31 / 5)
    assert ours.low == pytest.approx(low, abs=1e-12)
    assert ours.high == pytest.approx(high, abs=1e-12)
    assert ours.n == 5


def test_mean_interval_of_constant_values_has_no_width():
    assert mean_interval([3.0] * 10) == (3.0, 3.0, 3.0, 10)


def test_one_group_has_unknown_bounds():
    interval = mean_interval([1.0, 2.0], ["a", "a"])
    assert interval.value == 1.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_same_seed_same_interval_and_other_seed_another():
    values = np.arange(30) ** 1.5
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1).low != mean_interval(values, seed=2).low


def test_repeating_every_item_inside_its_group_changes_nothing():
    values, groups = [1.0, 5.0, 2.0, 7.0], [0, 1, 2, 3]
    once = mean_interval(values, groups, num_resamples=200)
    twice = mean_interval(values * 2, groups * 2, num_resamples=200)
    assert twice[:3] == pytest.approx(once[:3])
    alone = mean_interval(values * 2, num_resamples=200)
    assert alone.high - alone.low < twice.high - twice.low


def test_paired_interval_uses_differences():
    # b - a = 1, 1, 1: whatever is drawn, the mean is 1, though a and b vary widely.
    assert paired_interval([0.0, 100.0, -50.0], [1.0, 101.0, -49.0])[:3] == (1.0, 1.0, 1.0)


def test_gap_interval_resamples_each_side():
    gap = gap_interval([0.0, 1.0] * 50, [2.0, 3.0] * 50)
    assert gap.value == 2.0
    # Standard error: sqrt(0.25 / 100 + 0.25 / 100) = 0.0707; 1.96 of them = 0.139.
    assert gap.high - gap.value == pytest.approx(0.139, abs=0.02)
    assert gap.n == 200
    swapped = gap_interval([2.0, 3.0] * 50, [0.0, 1.0] * 50)
    assert swapped.value == -gap.value


def test_spread_interval_is_highest_less_lowest_mean():
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    members = ["a", "a", "b", "b", "c", "c"]
    # Means: a 0.5, b 1, c 0.
    spread = spread_interval(values, members, num_resamples=100)
    assert spread.value == 1.0
    assert 0.0 <= spread.low <= spread.high <= 1.0


def test_spread_does_not_change_with_a_shift_and_grows_with_scale():
    rng = np.random.default_rng(8)
    values, members = rng.normal(size=60), np.repeat(["a", "b", "c"], 20)
    plain = spread_interval(values, members, num_resamples=100)
    shifted = spread_interval(values + 7, members, num_resamples=100)
    doubled = spread_interval(2 * values, members, num_resamples=100)
    assert shifted[:3] == pytest.approx(plain[:3])
    assert doubled[:3] == pytest.approx([2 * x for x in plain[:3]])


def test_spread_of_equal_classes_lies_below_chance_and_planted_one_above():
    rng = np.random.default_rng(3)
    members = np.repeat(["a", "b", "c"], 200)
    flat = (rng.random(600) < 0.4).astype(float)
    limit = chance_spread(flat, members, num_resamples=500)
    assert spread_interval(flat, members, num_resamples=200).value < limit
    planted = flat.copy()
    planted[:200] = rng.random(200) < 0.7
    assert spread_interval(planted, members, num_resamples=200).low > limit


def test_chance_spread_of_two_classes_equals_its_normal_limit():
    # Difference of two means of 500 draws of variance 1: sd = sqrt(2 / 500); |z| < 1.96 in 95 %.
    values = np.random.default_rng(0).normal(size=1000)
    limit = chance_spread(values, np.repeat([0, 1], 500), num_resamples=2000)
    assert limit == pytest.approx(1.96 * math.sqrt(2 / 500), rel=0.08)


def test_wilson_hand_values():
    # 8 of 10, z = 1.959964: centre (0.8 + 0.192073) / 1.384146 = 0.716740;
    # half = 1.959964 / 1.384146 * sqrt(0.016 + 0.0096037) = 0.226577.
    value, low, high, n = wilson(8, 10)
    assert (value, n) == (0.8, 10)
    assert low == pytest.approx(0.490162, abs=1e-6)
    assert high == pytest.approx(0.943318, abs=1e-6)
    # 0 of n: high = z^2 / (n + z^2).
    assert wilson(0, 10)[:2] == (0.0, 0.0)
    assert wilson(0, 10).high == pytest.approx(3.841459 / 13.841459, abs=1e-6)
    assert wilson(10, 10).high == 1.0


def test_wilson_is_symmetric():
    a, b = wilson(3, 17), wilson(14, 17)
    assert a.low == pytest.approx(1 - b.high)
    assert a.high == pytest.approx(1 - b.low)


def test_share_interval_of_ungrouped_items_is_wilson_up_to_the_estimate_of_variance():
    hits = [True] * 30 + [False] * 70
    ours, plain = share_interval(hits), wilson(30, 100)
    # Without groups the estimated design effect is 100 / 99.
    assert ours.low == pytest.approx(plain.low, abs=1e-3)
    assert ours.high == pytest.approx(plain.high, abs=1e-3)


def test_share_interval_of_wholly_dependent_items_counts_groups():
    # 20 groups of 5 equal answers, 8 of them right: as good as 8 of 20 (design effect 5 * 20/19).
    hits = np.repeat([True] * 8 + [False] * 12, 5)
    ours = share_interval(hits, np.repeat(np.arange(20), 5))
    plain = wilson(8 * 19 / 20, 19)
    assert ours.low == pytest.approx(plain.low, abs=1e-9)
    assert ours.high == pytest.approx(plain.high, abs=1e-9)
    assert ours.n == 100


def test_share_interval_of_no_hits_counts_groups():
    ours = share_interval([0] * 30, np.repeat(np.arange(10), 3))
    assert (ours.value, ours.low) == (0.0, 0.0)
    assert ours.high == wilson(0, 10).high


def loop_auroc(scores, labels):
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, up in zip(scores, labels, strict=True)
        if up
        for n, other in zip(scores, labels, strict=True)
        if not other
    ]
    return sum(pairs) / len(pairs)


def test_auroc_hand_values():
    # Positives 3 and 1, negatives 2 and 1: pairs 3>2, 3>1, 1<2, 1=1 -> (1 + 1 + 0 + 0.5) / 4.
    assert auroc([3, 1, 2, 1], [1, 1, 0, 0]) == 0.625
    assert auroc([1, 2, 3], [False, True, True]) == 1.0
    assert auroc([5, 5, 5], [True, False, True]) == 0.5


def test_auroc_equals_the_loop_over_pairs_and_turns_with_sign():
    rng = np.random.default_rng(5)
    scores, labels = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    assert auroc(scores, labels) == pytest.approx(loop_auroc(scores, labels), abs=1e-12)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels))
    assert auroc(np.exp(scores), labels) == auroc(scores, labels)


def test_auroc_interval_equals_resampled_copies():
    rng = np.random.default_rng(9)
    scores, labels = rng.integers(0, 8, 24).astype(float), np.tile([True, False], 12)
    groups = np.repeat(np.arange(12), 2)
    ours = auroc_interval(scores, labels, groups, num_resamples=40, seed=4)
    values = []
    for draw in np.random.default_rng(4).integers(12, size=(40, 12)):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in draw])
        values.append(loop_auroc(scores[rows], labels[rows]))
    low, high = np.quantile(values, (0.025, 0.975))
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)


def test_calibration_error_hand_values():
    # Bins of 0.1: {0.05, 0.05} with outcomes 0, 1 -> |0.5 - 0.05|; {0.95, 1.0} with 1, 1 ->
    # |1 - 0.975|. Weighted: 0.5 * 0.45 + 0.5 * 0.025 = 0.2375.
    assert calibration_error([0.05, 0.05, 0.95, 1.0], [0, 1, 1, 1]) == pytest.approx(0.2375)
    assert calibration_error([0.3, 0.3, 0.3], [0.3, 0.3, 0.3]) == pytest.approx(0.0)
    # One bin: |mean outcome - mean probability|.
    assert calibration_error([0.2, 0.6], [1, 0], num_bins=1) == pytest.approx(0.1)


def test_spearman_hand_values():
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * (1 + 1 + 1 + 1) / (4 * 15) = 0.6.
    assert spearman([10, 20, 30, 40], [2, 1, 4, 3]) == pytest.approx(0.6)
    assert spearman([1, 2, 3], [8, 27, 64]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [5, 5, 5]) == 0.0


def test_spearman_equals_scipy_with_ties():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 5, 50), rng.integers(0, 5, 50)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def coverage(interval_of, truth, trials=250):
    """Return the share of simulated data sets whose interval holds the truth."""
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(trials):
        interval = interval_of(rng, trial)
        hits += interval.low <= truth <= interval.high
    return hits / trials


def clustered(rng, num_groups=40, size=4):
    """Draw values whose group shares most of their variance, with true mean 0."""
    shared = np.repeat(rng.normal(size=num_groups), size)
    return shared + 0.5 * rng.normal(size=num_groups * size), np.repeat(np.arange(num_groups), size)


# Standard error of a coverage of 0.95 over 250 trials: 1.4 points. Percentile bounds with 40
# groups are known to lie about 1.5 points below; 0.90 leaves room for both.
def test_grouped_bootstrap_covers_and_ungrouped_does_not():
    def grouped(rng, trial):
        values, groups = clustered(rng)
        return mean_interval(values, groups, num_resamples=300, seed=trial)

    def ungrouped(rng, trial):
        return mean_interval(clustered(rng)[0], num_resamples=300, seed=trial)

    assert 0.90 <= coverage(grouped, 0.0) <= 0.99
    assert coverage(ungrouped, 0.0) < 0.80


def test_paired_interval_covers():
    def paired(rng, trial):
        a, groups = clustered(rng)
        b = a + 0.3 + rng.normal(size=len(a))
        return paired_interval(a, b, groups, num_resamples=300, seed=trial)

    assert 0.90 <= coverage(paired, 0.3) <= 0.99


def test_share_interval_covers_rare_grouped_hits():
    # Beta(0.5, 4.5) group rates: mean 0.1, answers of a group strongly alike.
    def share(rng, trial):
        rates = np.repeat(rng.beta(0.5, 4.5, 40), 4)
        return share_interval(rng.random(160) < rates, np.repeat(np.arange(40), 4))

    assert 0.90 <= coverage(share, 0.1) <= 0.99


def test_spread_interval_covers_a_true_spread_of_two_far_classes():
    members = np.repeat([0, 1], 60)

    def spread(rng, trial):
        values = rng.normal(size=120) + 2.0 * members
        return spread_interval(values, members, num_resamples=300, seed=trial)

    assert 0.90 <= coverage(spread, 2.0) <= 0.99


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mean_interval([]), "at least one number"),
        (lambda: mean_interval([1.0, float("nan")]), "finite"),
        (lambda: mean_interval([1.0, 2.0], ["a"]), "groups"),
        (lambda: mean_interval([1.0, 2.0], confidence=1.0), "confidence"),
        (lambda: paired_interval([1.0], [1.0, 2.0]), "as many"),
        (lambda: spread_interval([1.0, 2.0], ["a", "a"]), "two classes"),
        (lambda: wilson(3, 2), "successes"),
        (lambda: wilson(0, 0), "successes"),
        (lambda: share_interval([0.5, 1.0]), "true or false"),
        (lambda: auroc([1.0, 2.0], [True, True]), "both"),
        (lambda: calibration_error([1.2], [1]), "lie in"),
        (lambda: spearman([1, 2], [1]), "as many"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
