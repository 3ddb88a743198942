"""Runs of several seeds: interquartile mean, bootstrap, profiles, probability of improvement, Holm.

The measures are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (arXiv:2108.13264), with a metric in the place of their tasks. Means over
seeds with Student's interval are in `means.py`, and to be preferred below ten seeds: a percentile
bootstrap of five covers less than it says (docs/statistics.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from plumbrule.statistics.groups import column, same_length
from plumbrule.statistics.intervals import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Interval,
    checked_confidence,
    sampled_bounds,
    unknown,
)

ROUNDING = 1e-12
"""Of the largest value: differences that spread by less are equal."""
Statistic = Callable[..., np.ndarray]
"""A function of values (..., n) that reduces the last axis, given as `axis`."""


def interquartile_mean(values: ArrayLike, axis: int = -1) -> np.ndarray:
    """Return the mean without the lowest and the highest quarter of `values` along an axis.

    A quarter is rounded down to whole values, so of fewer than four none is left out.
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis))


def bootstrap_interval(
    values: Sequence[float],
    statistic: Statistic = np.mean,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a statistic of one number per seed (n,) with its percentile bootstrap interval.

    The same values give the same bounds. One seed, and seeds that all give the same, have none.
    Raises: ValueError: no value, or one that is not finite.
    """
    x = column("values", values)
    n, value = len(x), float(statistic(x, axis=-1))
    if n == 1:
        return unknown(value, 1, 1, "too few: 1 seed")
    if (x == x[0]).all():
        return unknown(value, n, n, "no spread: all seeds gave the same")
    picks = np.random.default_rng(seed).integers(n, size=(num_resamples, n))
    low, high = _percentiles(statistic(x[picks], axis=-1), confidence)
    return sampled_bounds(value, low, high, n, n)


def improvement_probability(x: ArrayLike, y: ArrayLike) -> float:
    """Return how probably a run of `x` (n,) lies above one of `y` (m,); a tie counts one half.

    The Mann-Whitney U of x over n m: their section 4.3.
    Raises: ValueError: one of them is empty or not finite.
    """
    a, b = column("x", x), column("y", y)
    return float(_above(a[None], b[None])[0])


def improvement_interval(
    x: ArrayLike,
    y: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return `improvement_probability` with its percentile bootstrap; x and y are resampled apart.

    There are no bounds where a side has one run, or where no resample gives another number.
    Raises: ValueError: one of them is empty or not finite.
    """
    a, b = column("x", x), column("y", y)
    value, n = improvement_probability(a, b), len(a) + len(b)
    if min(len(a), len(b)) < 2:
        return unknown(value, n, n, "too few: 1 seed")
    rng = np.random.default_rng(seed)
    ours, theirs = (
        side[rng.integers(len(side), size=(num_resamples, len(side)))] for side in (a, b)
    )
    low, high = _percentiles(_above(ours, theirs), confidence)
    return sampled_bounds(value, low, high, n, n)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Return the share of runs (t,) whose score (n,) lies above each threshold (t,).

    Their run-score distribution of one task (section 4.2).
    Raises: ValueError: `scores` is empty or not finite.
    """
    x = column("scores", scores)
    return (x[None, :] > np.asarray(thresholds, dtype=np.float64)[:, None]).mean(axis=1)


def paired_p_value(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided p-value of Student's t of b - a, where a[i] and b[i] are of one seed.

    NaN with fewer than two pairs, and where all differ by the same up to rounding: no spread.
    Raises: ValueError: an empty or not finite side, or sides of different lengths.
    """
    from scipy.stats import ttest_1samp

    x, y = column("a", a), column("b", b)
    same_length("b", y, x)
    difference = y - x
    if len(difference) < 2 or np.ptp(difference) <= ROUNDING * np.abs(np.stack([x, y])).max():
        return float("nan")
    return float(ttest_1samp(difference, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values (k,) corrected for being k, by Holm 1979 (Scand. J. Statist. 6:65).

    The i-th smallest of k, from 0, is multiplied by k - i, and is never less than the one before
    it nor more than 1. A NaN stays one and does not count.
    """
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _above(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the share of pairs, of each row (r, n) and (r, m), in which x lies above y: (r,)."""
    ours, theirs = x[:, :, None], y[:, None, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=(1, 2))


def _percentiles(resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - checked_confidence(confidence)) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return float(low), float(high)
