"""Folds of a cross-validation: their mean, with Student's t corrected for what they share.

Any two trainings of a k-fold cross-validation have (k - 2) / (k - 1) of their rows in common, so
their figures are not independent, and s / sqrt(k) may be too small; no estimate of the variance is
unbiased (Bengio and Grandvalet 2004, JMLR 5:1089). Nadeau and Bengio 2003 (Machine Learning 52:239,
section 3) take s^2 (1/n + n_test / n_train) for the variance of the mean of n figures, which errs
on the safe side; with k folds n_test / n_train is 1 / (k - 1), as Bouckaert and Frank 2004 (PAKDD,
LNCS 3056:3) use it. For five folds the interval is 1.5 times as wide as that of five seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from plumbrule.statistics.intervals import CONFIDENCE, Interval, sampled_bounds, unknown
from plumbrule.statistics.shares import student_quantile

ROUNDING = 1e-12
"""Of the largest figure: those that spread by less are equal."""


def fold_interval(values: Sequence[float], folds: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of one number per fold (n,) with the corrected Student's t interval.

    Args: folds: k, of which some may be missing. One fold, and folds that all give the same, have
    no bounds.
    Raises: ValueError: no value, one that is not finite, or more than there are folds.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"values (={list(values)}) must be finite numbers, one at least.")
    if not len(x) <= folds or folds < 2:
        raise ValueError(f"folds (={folds}) must be two or more, and one for each of {len(x)}.")
    mean, n = float(x.mean()), len(x)
    if n == 1:
        return unknown(mean, 1, 1, "too few: 1 fold")
    if np.ptp(x) <= ROUNDING * np.abs(x).max():
        return unknown(mean, n, n, "no spread: all folds gave the same")
    wide = student_quantile(confidence, n - 1) * _error(x, folds)
    return sampled_bounds(mean, mean - wide, mean + wide, n, n)


def fold_p_value(differences: Sequence[float], folds: int) -> float:
    """Return the two-sided p-value of the corrected Student's t of one difference per fold (n,).

    NaN with fewer than two, and where all are the same up to rounding.
    Raises: ValueError: as `fold_interval`.
    """
    from scipy.stats import t

    found = fold_interval(differences, folds)
    if math.isnan(found.low):
        return math.nan
    x = np.asarray(differences, dtype=np.float64)
    return float(2 * t.sf(abs(found.value) / _error(x, folds), len(x) - 1))


def _error(x: np.ndarray, folds: int) -> float:
    """Return the standard error of the mean of figures (n,) of some of the folds."""
    return float(x.std(ddof=1)) * math.sqrt(1 / len(x) + 1 / (folds - 1))
