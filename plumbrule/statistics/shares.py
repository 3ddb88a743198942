"""Intervals of shares, of differences of paired shares, and of weighted sums of shares.

All are score intervals, which have a width even where every item came out alike. Items in groups
count for fewer: a share of n items is as sure as one of n / design effect independent ones, where
the design effect is the variance of the group totals to that of as many independent items (Kish
1965, ch. 8). It is never below 1, so groups never make a share surer than its items would, and it
is estimated with half a group of hits and half a one of misses added: with few hits it is hardly
known, and without any it is that of groups which answer as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from plumbrule.statistics.groups import Grouped, by_group, column, group_index, same_length
from plumbrule.statistics.intervals import (
    CONFIDENCE,
    MIN_GROUPS,
    Interval,
    checked_confidence,
    sampled_bounds,
    too_few,
)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """Return successes / n with Wilson's score interval (Wilson 1927, JASA 22:209).

    Both may be fractions of items, which scipy's does not allow.

    Raises: ValueError: unless 0 <= successes <= n and n > 0.
    """
    if not (n > 0 and 0 <= successes <= n):
        raise ValueError(f"successes (={successes}) must lie in [0, n] (n={n}), and n be above 0.")
    z = normal_quantile(confidence)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, round(n), round(n))


def share_interval(
    hits: ArrayLike, groups: Sequence | np.ndarray | None = None, *, confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean of `hits` (n,) in [0, 1] with Wilson's interval at the effective sample size.

    Next to 0 and 1 a bound is Poisson's where that is further out (Brown, Cai and DasGupta 2001,
    Statist. Sci. 16:101, section 4.1.1), since Wilson's covers too little there. A hit of 0.5 is a
    tie. Grouped items need `MIN_GROUPS` groups.

    Raises: ValueError: empty, not in [0, 1], or `groups` is of another length.
    """
    x = column("hits", hits).copy()
    if x.min() < 0 or x.max() > 1:
        raise ValueError("hits must lie in [0, 1]; take mean_interval for other values.")
    index = group_index(groups, len(x))
    p, n, num_groups = float(x.mean()), len(x), int(index.max()) + 1
    if num_groups < n and num_groups < MIN_GROUPS:
        return too_few(p, n, num_groups)
    ends = ((1 - p) ** 2 + p**2) / 2
    effective = effective_size(by_group(x - p, index), p * (1 - p), ends, confidence)
    found = wilson(p * effective, effective, confidence)
    low = min(found.low, _poisson_low(p * effective, effective, confidence))
    high = max(found.high, 1 - _poisson_low((1 - p) * effective, effective, confidence))
    if p in (0.0, 1.0) and num_groups < n:  # one item that differs must not make it surer
        x[0] = 1 - p
        other = share_interval(x, index, confidence=confidence)
        low, high = max(low, 1 - other.high + other.low), min(high, other.high - other.low)
        low, high = (0.0, high) if p == 0 else (low, 1.0)
    return sampled_bounds(p, low, high, n, num_groups)


def paired_share_interval(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return mean(b) - mean(a) of 0/1 columns (n,) of the same items, by Tango's score interval.

    Tango 1998, Statist. Med. 17:891, with both counts of items that changed cut down to the
    effective sample size. Where none changed it is +-z^2 / (n + z^2).

    Raises: ValueError: as `share_interval`, values other than 0 and 1, or other lengths.
    """
    x, y = column("a", a), column("b", b)
    same_length("b", y, x)
    if not np.isin(np.concatenate([x, y]), (0.0, 1.0)).all():
        raise ValueError("a and b must be 0 or 1; take paired_interval for other values.")
    index = group_index(groups, len(x))
    n, num_groups = len(x), int(index.max()) + 1
    change = y - x
    value = float(change.mean())
    if num_groups < n and num_groups < MIN_GROUPS:
        return too_few(value, n, num_groups)
    gained, lost = float((change > 0).mean()), float((change < 0).mean())
    ends = ((1 - value) ** 2 + (1 + value) ** 2) / 2
    variance = gained + lost - value**2
    effective = effective_size(by_group(change - value, index), variance, ends, confidence)
    z = normal_quantile(confidence)

    def excess(delta: float) -> float:
        return _tango(gained * effective, lost * effective, effective, delta)

    low = -1.0 if value == -1 else _crossing(lambda d: excess(d) - z, -1.0, value)
    high = 1.0 if value == 1 else _crossing(lambda d: excess(d) + z, value, 1.0)
    return sampled_bounds(value, low, high, n, num_groups)


def stratified_share_interval(
    hits: ArrayLike,
    strata: Sequence,
    groups: Sequence | np.ndarray | None = None,
    *,
    equal: bool = False,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the weighted mean of the strata's shares; the sizes of the strata count as given.

    Weights are the strata's sizes, which gives the plain mean, or `equal`, which for the two true
    labels gives balanced accuracy. Bounds recover each share's variance from its own interval
    (MOVER; Zou and Donner 2008, Statist. Med. 27:1693), and the strata's correlation from the
    groups that have items in both: who always says Yes is right on exactly one of two sides.

    Args: hits: (n,) in [0, 1]. strata: (n,) labels.
    Raises: ValueError: as `share_interval`.
    """
    x = column("hits", hits)
    stratum, index = group_index(strata, len(x)), group_index(groups, len(x))
    num_groups, num_strata = int(index.max()) + 1, int(stratum.max()) + 1
    shares, errors, weights = [], [], []
    for number in range(num_strata):
        own = stratum == number
        shares.append(share_interval(x[own], index[own], confidence=confidence))
        rest = np.where(own, x - x[own].mean(), 0.0)
        errors.append(np.bincount(index, rest, num_groups))
        weights.append(1 / num_strata if equal else own.mean())
    value = float(sum(w * s.value for w, s in zip(weights, shares, strict=True)))
    missing = [s for s in shares if not s.is_bounded]
    if missing:
        return missing[0]._replace(value=value, n=len(x), groups=num_groups)
    # a group of each outcome in the spread: two shares that were never seen to differ are not
    # therefore bound to one another
    ends = [(s.value**2 + (1 - s.value) ** 2) * by_group(x, index).size for s in shares]
    spread = [math.sqrt(float(e @ e) + end) for e, end in zip(errors, ends, strict=True)]
    rows = np.array(errors)
    correlation = rows @ rows.T / np.outer(spread, spread)
    np.fill_diagonal(correlation, 1.0)

    def reach(ends: list[float]) -> float:
        far = np.array([w * e for w, e in zip(weights, ends, strict=True)])
        return math.sqrt(max(0.0, float(far @ correlation @ far)))

    low = value - reach([s.value - s.low for s in shares])
    high = value + reach([s.high - s.value for s in shares])
    return sampled_bounds(value, max(0.0, low), min(1.0, high), len(x), num_groups)


def effective_size(errors: Grouped, variance: float, ends: float, confidence: float) -> float:
    """Return how many independent items are as sure as these, at most their number.

    Args: errors: by group, of the items' distances from their mean. variance: of one item. ends:
    squared distance of a hit from the mean, and that of a miss, their mean.
    """
    n, num_groups = float(errors.counts.sum()), len(errors.counts)
    if num_groups == n:
        return n
    size = errors.size
    between = float(errors.sums @ errors.sums) * num_groups / (num_groups - 1)
    alone = n * variance + size * ends
    design_effect = max(1.0, (between + size**2 * ends) / alone)
    # the design effect of few groups is badly known: Student's t (Korn and Graubard 1998)
    doubt = student_quantile(confidence, errors.degrees) / student_quantile(confidence, n - 1)
    return n / (1 + (design_effect - 1) * doubt**2)


def normal_quantile(confidence: float) -> float:
    """Return how many standard errors a normal interval reaches on either side."""
    return NormalDist().inv_cdf(0.5 + checked_confidence(confidence) / 2)


def student_quantile(confidence: float, degrees: float) -> float:
    """Return how many standard errors Student's interval reaches on either side."""
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    return float(stdtrit(degrees, 0.5 + checked_confidence(confidence) / 2))


def _poisson_low(hits: float, n: float, confidence: float) -> float:
    """Return the lower bound of a share of few hits, infinity where they are not few.

    One-sided, as no more than 1 - confidence of the time the share lies next to 0 and below it.
    """
    from scipy.special import gammaincinv

    if hits < 1e-9:
        return 0.0
    if hits > (2 if n <= 50 else 3) + 1e-9:
        return math.inf
    return float(gammaincinv(hits, 1 - confidence)) / n


def _tango(gained: float, lost: float, n: float, delta: float) -> float:
    """Return the score statistic of a difference `delta`, falling in it.

    q is the share of items that lost, as it would most likely be if the difference were `delta`.
    """
    b = -(gained + lost) + (2 * n - gained + lost) * delta
    root = max(0.0, b * b + 8 * n * lost * delta * (1 - delta))
    q = (math.sqrt(root) - b) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    away = gained - lost - n * delta
    if variance <= 0:
        return 0.0 if away == 0 else math.copysign(math.inf, away)
    return away / math.sqrt(variance)


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function of [low, high] crosses 0, by bisection to 1e-10."""
    for _ in range(34):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
