"""Intervals and scores: hand values, and loops written from the definitions."""

import math

import numpy as np
import pytest
import scipy.special

from plumbrule.statistics import (
    auroc,
    auroc_interval,
    calibration,
    calibration_error,
    chance_spread,
    jackknife_interval,
    mean_interval,
    paired_interval,
    paired_share_interval,
    seed_interval,
    share_interval,
    spearman,
    spearman_interval,
    spread_interval,
    stratified_share_interval,
    wilson,
)
from plumbrule.store.headline import flat


def test_mean_interval_is_students_where_nothing_is_skewed():
    # Mean 3, deviation sqrt(2.5), t of 4 degrees of freedom 2.776445.
    ours = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert (ours.value, ours.n, ours.groups) == (3.0, 5, 5)
    assert (ours.low, ours.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)


def test_mean_interval_reaches_further_on_the_side_of_the_tail():
    # Hall's transformation solved by brute force on a fine grid.
    x = np.array([1.0, 1.2, 1.5, 1.9, 2.5, 3.1, 9.0])
    n, se = len(x), x.std(ddof=1) / math.sqrt(len(x))
    skew = ((x - x.mean()) ** 3).sum() * n / ((n - 1) * (n - 2)) / x.std(ddof=1) ** 3
    s, reach = skew / math.sqrt(n), 2.446912
    t = np.linspace(-40, 40, 2_000_001)
    hall = t + s * t**2 / 3 + s**2 * t**3 / 27 + s / 6
    low, high = (t[np.argmin(np.abs(hall - end))] for end in (reach, -reach))
    ours = mean_interval(x)
    assert ours.high - x.mean() == pytest.approx(-high * se, abs=1e-3 * se)
    assert x.mean() - ours.low == pytest.approx(max(low, reach) * se, abs=1e-3 * se)
    assert ours.high - x.mean() > 1.5 * (x.mean() - ours.low)


def test_groups_of_uneven_size_are_left_out_one_by_one():
    values, groups = [1.0, 2.0, 4.0, 8.0, 3.0, 3.5, 0.0, 5.0], [0, 0, 1, 2, 2, 3, 4, 4]
    without = [
        np.mean([v for v, g in zip(values, groups, strict=True) if g != k]) for k in range(5)
    ]
    mean = np.mean(values)
    error = math.sqrt(4 / 5 * sum((m - mean) ** 2 for m in without))
    # 8 items, squared sizes 4 + 1 + 4 + 1 + 4: as good as 64 / 14 = 4.571 equal groups
    t = float(scipy.special.stdtrit(64 / 14 - 1, 0.975))
    ours = mean_interval(values, groups)
    assert min(ours.high - mean, mean - ours.low) == pytest.approx(t * error, rel=1e-9)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lambda: mean_interval([1.0, 2.0, 5.0, 7.0]), "too few: 4 groups of at least 5"),
        (lambda: mean_interval([1.0, 2.0] * 9, ["a"] * 18), "too few: 1 group of at least 5"),
        (lambda: mean_interval([3.0] * 10), "no spread: all values are equal"),
        (lambda: mean_interval([0.0] * 40 + [1.0, 2.0, 2.5]), "too few: 3 of 43 groups differ"),
        (lambda: share_interval([1, 0] * 4, [0, 1] * 4), "too few: 2 groups"),
        (lambda: paired_interval([0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]), "too few: 2 groups"),
        (lambda: seed_interval([1.0]), "too few: 1 seed"),
        (lambda: seed_interval([0.5, 0.5, 0.5]), "no spread: all seeds gave the same"),
        (lambda: auroc_interval([1, 2, 3, 0], [1, 1, 0, 0]), "too few: 2 groups of at least 10"),
        (lambda: spearman_interval([1, 2, 3], [1, 2, 4]), "too few: 3 groups of at least 10"),
        (lambda: spread_interval([0.0] * 40, [0, 1] * 20), "no spread"),
        (lambda: spread_interval([0.0, 1.0] * 9, [0, 0, 1] * 6), "too few: 6 groups"),
    ],
)
def test_where_nothing_would_cover_there_is_a_reason_and_no_interval(found, said):
    interval = found()
    assert said in interval.reason
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.is_bounded
    assert set(flat({"x": interval.as_json()})) == {"x"}


def test_too_few_of_a_class_leaves_the_number_of_all_groups() -> None:
    few = auroc_interval(range(30), [1, 1] + [0] * 28)
    assert (few.groups, few.reason) == (30, "too few: 2 groups of at least 10")
    few = spread_interval(range(30), [1, 1] + [0] * 28)
    assert (few.groups, few.reason) == (30, "too few: 2 groups of at least 10")


def test_copies_of_items_inside_their_groups_do_not_narrow_an_interval():
    rng = np.random.default_rng(4)
    values, hits = rng.normal(size=30), (rng.random(30) < 0.4).astype(float)
    once, twice = range(30), list(range(30)) * 2
    for interval, x in ((mean_interval, values), (share_interval, hits)):
        grouped = interval(np.tile(x, 2), twice)
        single, alone = interval(x, once), interval(np.tile(x, 2))
        wide = [i.high - i.low for i in (single, grouped, alone)]
        assert wide[1] > 0.93 * wide[0] > 1.2 * wide[2]
        assert (grouped.n, grouped.groups) == (60, 30)


def test_values_of_two_kinds_are_a_share():
    hits = np.array([1, 0, 0, 1, 1, 0, 0, 0, 0, 0.0])
    share, scaled = share_interval(hits), mean_interval(3 * hits - 1)
    assert scaled[:3] == pytest.approx([3 * x - 1 for x in share[:3]])
    # of a column that is 0 throughout nobody knows what its other values would be
    assert not mean_interval([0.0] * 10).is_bounded


def tango_by_search(gained, lost, n):
    """Differences whose score statistic, its nuisance maximised numerically, is within 1.96."""
    found = []
    for delta in np.linspace(-0.999, 0.999, 1999):
        q = np.linspace(max(0.0, -delta), (1 - delta) / 2, 4001)[1:-1]  # share lost, under delta
        with np.errstate(divide="ignore"):
            rest = np.log(1 - 2 * q - delta)
            likelihood = gained * np.log(q + delta) + lost * np.log(q) + (n - gained - lost) * rest
        best = q[np.argmax(likelihood)]
        z = (gained - lost - n * delta) / math.sqrt(n * (2 * best + delta - delta**2))
        if abs(z) <= 1.959964:
            found.append(delta)
    return min(found), max(found)


@pytest.mark.parametrize(("gained", "lost", "n"), [(3, 9, 40), (1, 0, 30), (12, 5, 60)])
def test_paired_shares_equal_tangos_interval_searched_for(gained, lost, n):
    before = [0] * gained + [1] * lost + [1] * (n - gained - lost)
    after = [1] * gained + [0] * lost + [1] * (n - gained - lost)
    ours = paired_interval(before, after)
    assert ours.value == pytest.approx((gained - lost) / n)
    assert (ours.low, ours.high) == pytest.approx(tango_by_search(gained, lost, n), abs=2e-3)
    mirrored = paired_interval(after, before)
    assert (mirrored.low, mirrored.high) == pytest.approx((-ours.high, -ours.low))


def test_no_change_leaves_tangos_doubt():
    # z^2 / (n + z^2) on either side, whatever the items are
    none = paired_interval([1] * 50, [1] * 50)
    assert (none.value, none.high) == (0.0, pytest.approx(3.841459 / 53.841459, abs=1e-6))
    assert none.low == pytest.approx(-none.high)


def test_paired_shares_of_another_scale_and_of_groups():
    rng = np.random.default_rng(6)
    a, b = (rng.random(60) < 0.6).astype(float), (rng.random(60) < 0.7).astype(float)
    plain, wide = paired_interval(a, b), paired_interval(2 * a, 2 * b)
    assert wide[:3] == pytest.approx([2 * x for x in plain[:3]])
    assert paired_share_interval(a, b)[:3] == plain[:3]
    apart = paired_interval(np.tile(a, 3), np.tile(b, 3))
    together = paired_interval(np.tile(a, 3), np.tile(b, 3), list(range(60)) * 3)
    assert together.high - together.low > 1.4 * (apart.high - apart.low)
    assert (together.n, together.groups) == (180, 60)


def test_paired_interval_uses_differences():
    a = np.random.default_rng(0).normal(0, 100, 12)
    step = np.linspace(0.9, 1.1, 12)
    found = paired_interval(a, a + step)
    assert found.value == pytest.approx(1.0)
    assert found.high - found.low < 0.1  # though a and b vary widely


def test_balanced_accuracy_weighs_labels_and_is_as_wide_as_its_parts_say():
    # 40 of 50 right on one label, 10 of 20 on the other, all alone: half the root of the squares
    hits, labels = [1] * 40 + [0] * 10 + [1] * 10 + [0] * 10, [0] * 50 + [1] * 20
    ours = stratified_share_interval(hits, labels, equal=True)
    first, second = share_interval(hits[:50]), share_interval(hits[50:])
    assert ours.value == pytest.approx(0.65)
    below = math.hypot(first.value - first.low, second.value - second.low) / 2
    above = math.hypot(first.high - first.value, second.high - second.value) / 2
    assert (ours.low, ours.high) == pytest.approx((0.65 - below, 0.65 + above))
    assert stratified_share_interval(hits, labels).value == pytest.approx(50 / 70)


def test_two_sides_of_a_row_that_pull_against_each_other_are_surer_together():
    rng = np.random.default_rng(2)
    yes = rng.random(200) < 0.5  # the same verdict on both sides: right on exactly one
    hits = np.concatenate([yes, ~yes]).astype(float)
    labels, rows = [1] * 200 + [0] * 200, list(range(200)) * 2
    ours = stratified_share_interval(hits, labels, rows, equal=True)
    apart = stratified_share_interval(hits, labels, equal=True)
    assert ours.value == 0.5
    assert 0 < ours.high - ours.low < 0.3 * (apart.high - apart.low)


def test_spread_interval_is_highest_less_lowest_mean():
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0] * 10
    members = ["a", "a", "b", "b", "c", "c"] * 10
    # Means: a 0.5, b 1, c 0. Only a's is uncertain, so the gap is not.
    spread = spread_interval(values, members, num_resamples=100)
    assert spread.value == 1.0
    assert "no spread" in spread.reason
    mixed = spread_interval([1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 9 + [1.0, 0.0] * 3, members)
    assert 0.0 < mixed.low < mixed.high <= 1.0
    assert mixed.low < mixed.value < mixed.high


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
    value, low, high, n, *_ = wilson(8, 10)
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


def test_share_interval_of_ungrouped_items_is_wilsons():
    assert share_interval([1] * 30 + [0] * 70)[:3] == pytest.approx(wilson(30, 100)[:3])
    assert share_interval([0] * 12)[:3] == pytest.approx(wilson(0, 12)[:3])


def test_next_to_its_ends_a_share_has_poissons_bound():
    # P(X >= 2) = .05 for X of mean .3554, P(X >= 1) = .05 for .0513: Wilson's are .0276, .0179.
    assert share_interval([1, 1] + [0] * 18).low == pytest.approx(0.35536 / 20, abs=1e-5)
    assert share_interval([1] + [0] * 9).low == pytest.approx(0.05129 / 10, abs=1e-5)
    assert share_interval([0] + [1] * 9).high == pytest.approx(1 - 0.05129 / 10, abs=1e-5)
    assert share_interval([1] * 4 + [0] * 16).low == pytest.approx(wilson(4, 20).low)


def test_share_interval_of_wholly_dependent_items_counts_groups():
    # 200 groups of 5 equal answers, 80 of them right: nearly as good as 80 of 200 items.
    hits = np.repeat([True] * 80 + [False] * 120, 5)
    ours, plain = share_interval(hits, np.repeat(np.arange(200), 5)), wilson(80, 200)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=2e-3)
    assert (ours.n, ours.groups) == (1000, 200)


def test_a_share_is_never_surer_than_its_items():
    # Every group holds one hit of two: group totals do not vary at all, items do.
    hits, groups = [1, 0] * 20, np.repeat(np.arange(20), 2)
    ours, plain = share_interval(hits, groups), wilson(20, 40)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high))


@pytest.mark.parametrize("size", [2, 6])
@pytest.mark.parametrize("num_groups", [10, 50])
def test_no_hit_is_no_wider_than_one_and_both_count_groups(num_groups, size):
    groups = np.repeat(np.arange(num_groups), size)
    none = np.zeros(num_groups * size)
    one = none.copy()
    one[3] = 1
    wide = [i.high - i.low for i in (share_interval(none, groups), share_interval(one, groups))]
    assert wilson(0, len(none)).high < wide[0] <= wide[1]
    mirrored = share_interval(1 - none, groups)
    assert 1 - mirrored.low == pytest.approx(wide[0])


def test_a_tie_is_half_a_hit():
    assert share_interval([0.5] * 40)[:3] == pytest.approx(wilson(20, 40)[:3])


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


def test_auroc_interval_is_a_jackknife_of_log_odds():
    rng = np.random.default_rng(9)
    labels = np.tile([True, False], 30)
    scores, groups = rng.normal(size=60) + labels, np.repeat(np.arange(30), 2)
    ours, value = auroc_interval(scores, labels, groups), loop_auroc(scores, labels)
    without = [loop_auroc(scores[groups != g], labels[groups != g]) for g in range(30)]
    error = math.sqrt(29 / 30 * np.square(without - np.mean(without)).sum())
    step = 2.045230 * error / (value * (1 - value))
    odds = math.log(value / (1 - value))
    ends = [1 / (1 + math.exp(-(odds + sign * step))) for sign in (-1, 1)]
    assert (ours.low, ours.high) == pytest.approx(ends, rel=1e-6)


def test_a_perfect_auroc_is_a_share_of_the_rarer_labels_groups():
    ours = auroc_interval(range(30), [i >= 18 for i in range(30)])
    assert ours[:3] == pytest.approx((1.0, wilson(12, 12).low, 1.0))


def test_spearman_interval_is_fishers_for_normal_columns():
    rng = np.random.default_rng(1)
    a = rng.normal(size=800)
    ours = spearman_interval(a, 0.6 * a + 0.8 * rng.normal(size=800))
    # Bonett and Wright 2000: sqrt((1 + r^2 / 2) / (n - 3)) on Fisher's scale
    wide = 1.96 * math.sqrt((1 + ours.value**2 / 2) / 797)
    low, high = (math.tanh(math.atanh(ours.value) + s * wide) for s in (-1, 1))
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.01)


def test_more_groups_than_blocks_give_the_same_interval_but_for_chance():
    x = np.random.default_rng(0).normal(5, 1, 4000)
    found = jackknife_interval(np.mean, [x])
    assert found.high - found.value == pytest.approx(1.96 / math.sqrt(4000), rel=0.15)


def calibrated(rng, n):
    p = 0.5 + rng.random(n) / 2
    return p, rng.random(n) < p


def test_the_error_of_a_calibrated_model_is_what_stands_beside_it():
    rng = np.random.default_rng(7)
    found = [calibration(*calibrated(rng, 100)) for _ in range(150)]
    errors, beside = ([one[k].value for one in found] for k in (0, 1))
    assert np.mean(errors) == pytest.approx(0.072, abs=0.008)  # far from 0, and no fault
    # a mean of 150 errors of deviation .03 is known to .0025
    assert np.mean(errors) == pytest.approx(np.mean(beside), abs=0.007)
    inside = [one[1].low <= one[0].value <= one[1].high for one in found]
    assert np.mean(inside) > 0.89  # .95 less 3 * sqrt(.95 * .05 / 150)
    assert np.median([one.debiased.value for one in found]) < 0.02


def test_a_planted_calibration_error_is_found_without_its_bias():
    rng = np.random.default_rng(8)
    found = []
    for _ in range(100):
        p, _ = calibrated(rng, 200)
        found.append(calibration(np.clip(p + 0.15, 0, 1), rng.random(200) < p))
    truth = 0.15 - 0.15**2  # what is cut off at 1 is off by less: its mean is .075
    assert np.mean([one.debiased.value for one in found]) == pytest.approx(truth, abs=0.012)
    assert np.mean([one.error.value for one in found]) > truth


def test_outcomes_that_go_together_widen_what_chance_explains():
    rng = np.random.default_rng(3)
    p = np.repeat(0.5 + rng.random(60) / 2, 6)
    y = np.repeat(rng.random(60), 6) < p
    apart, together = calibration(p, y), calibration(p, y, np.repeat(np.arange(60), 6))
    assert together.if_calibrated.value > 1.7 * apart.if_calibrated.value


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


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mean_interval([]), "at least one number"),
        (lambda: mean_interval([1.0, float("nan")]), "finite"),
        (lambda: mean_interval([1.0, 2.0], ["a"]), "groups"),
        (lambda: mean_interval([1.0, 2.0, 3.0, 4.0, 6.0], confidence=1.0), "confidence"),
        (lambda: share_interval([1, 0], confidence=0.0), "confidence"),
        (lambda: paired_share_interval([0.5], [1.0]), "must be 0 or 1"),
        (lambda: calibration([0.5], [1, 0]), "as many"),
        (lambda: paired_interval([1.0], [1.0, 2.0]), "as many"),
        (lambda: spread_interval([1.0, 2.0], ["a", "a"]), "two classes"),
        (lambda: wilson(3, 2), "successes"),
        (lambda: wilson(0, 0), "successes"),
        (lambda: share_interval([0.5, 1.5]), r"lie in \[0, 1\]"),
        (lambda: auroc([1.0, 2.0], [True, True]), "both"),
        (lambda: calibration_error([1.2], [1]), "lie in"),
        (lambda: spearman([1, 2], [1]), "as many"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
