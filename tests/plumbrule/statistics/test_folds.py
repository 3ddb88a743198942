"""Intervals over the folds of a cross-validation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plumbrule.statistics import fold_interval, fold_p_value, seed_interval


def test_the_interval_is_students_with_the_corrected_error() -> None:
    # 1, 2, 3, 4, 5: mean 3, variance 2.5; times 1/5 + 1/4 = 0.45: error sqrt(1.125); Student's
    # quantile of 4 degrees of freedom 2.776445
    found = fold_interval([1.0, 2.0, 3.0, 4.0, 5.0], folds=5)
    assert found.value == 3.0
    assert found.high - 3.0 == pytest.approx(2.776445 * math.sqrt(1.125), abs=1e-5)
    plain = seed_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.high - found.low) / (plain.high - plain.low) == pytest.approx(1.5)
    # one of five missing: 1/4 + 1/4
    some = fold_interval([1.0, 2.0, 3.0, 4.0], folds=5)
    assert some.high - 2.5 == pytest.approx(3.182446 * math.sqrt(5 / 3 * 0.5), abs=1e-5)


def test_a_p_value_of_five_per_cent_is_where_the_interval_ends() -> None:
    values = np.array([0.3, 0.1, 0.4, 0.2, 0.6])
    low = fold_interval(values.tolist(), folds=5).low
    assert fold_p_value((values - low).tolist(), folds=5) == pytest.approx(0.05, abs=1e-9)


def test_what_has_no_bounds_says_why_and_bad_numbers_are_refused() -> None:
    assert fold_interval([1.0], folds=5).reason == "too few: 1 fold"
    assert fold_interval([0.5, 0.5], folds=2).reason == "no spread: all folds gave the same"
    assert math.isnan(fold_p_value([0.1, 0.1, 0.1], folds=3))
    for bad in ([], [math.nan], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="must be"):
            fold_interval(bad, folds=2)
