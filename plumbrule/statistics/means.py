"""Intervals of means: of items in groups, of paired differences, and over seeds.

Student's t on the groups' totals is exact for normal ones and stays near nominal for heavy tails,
but falls short on the side of a long tail (.85 in place of .95 for ten lognormal values). Hall's
transformation (1992, J. R. Statist. Soc. B 54:221) takes the skewness out, and falls short for
heavy tails. So each bound is the further of the two. Both are closed forms: nothing is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from plumbrule.statistics.groups import by_group, column, group_index, same_length
from plumbrule.statistics.intervals import (
    CONFIDENCE,
    MIN_GROUPS,
    Interval,
    sampled_bounds,
    too_few,
    unknown,
)
from plumbrule.statistics.shares import (
    paired_share_interval,
    share_interval,
    student_quantile,
)


def mean_interval(
    values: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of `values` (n,) with an interval over groups.

    Values of two kinds are a share (where all may be equal, take `share_interval`, which knows how
    far apart 0 and 1 lie). There are no bounds with fewer than `MIN_GROUPS` groups, where all
    values are equal, or where most groups have one value and fewer than `MIN_GROUPS` another: the
    spread then rests on these few.

    Raises: ValueError: `values` is empty or not finite, or `groups` is of another length.
    """
    x = column("values", values)
    index = group_index(groups, len(x))
    n, num_groups, value = len(x), int(index.max()) + 1, float(x.mean())
    if num_groups < MIN_GROUPS:
        return too_few(value, n, num_groups)
    kinds = np.unique(x)
    if len(kinds) == 2:
        least, wide = float(kinds[0]), float(kinds[1] - kinds[0])
        share = share_interval((x - least) / wide, index, confidence=confidence)
        return share.scaled(wide, least)._replace(value=value)
    if len(kinds) == 1:
        return unknown(value, n, num_groups, "no spread: all values are equal")
    totals = by_group(x, index)
    others = _count_others(totals.sums / totals.counts)
    if others < MIN_GROUPS and others < num_groups / 2:
        reason = f"too few: {others} of {num_groups} groups differ from the rest"
        return unknown(value, n, num_groups, reason)
    # what the mean would move by if a group were left out, over the mean weight of a group
    errors = (totals.sums - value * totals.counts) / (1 - totals.counts / n)
    low, high = _student_and_hall(errors / n, student_quantile(confidence, totals.degrees))
    return sampled_bounds(value, value - low, value + high, n, num_groups)


def paired_interval(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of b - a, where a[i] and b[i] (n,) measure one item.

    Columns of 0 and 1, or of two other kinds of values, are paired shares.

    Raises: ValueError: as `mean_interval`, or a and b are of different lengths.
    """
    x, y = column("a", a), column("b", b)
    same_length("b", y, x)
    kinds = np.unique(np.concatenate([x, y]))
    if set(kinds) <= {0.0, 1.0}:
        return paired_share_interval(x, y, groups, confidence=confidence)
    if len(kinds) == 2:
        wide = float(kinds[1] - kinds[0])
        before, after = ((column - kinds[0]) / wide for column in (x, y))
        found = paired_share_interval(before, after, groups, confidence=confidence)
        return found.scaled(wide)
    return mean_interval(y - x, groups, confidence=confidence)


def seed_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of one number per seed (n,) with Student's t interval.

    A bootstrap of three to ten seeds would be too narrow by far (Colas et al. 2018,
    arXiv:1806.08295, section 4.2). A single seed, and seeds that all give the same, have no bounds.
    Raises: ValueError: no value, or one that is not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"values (={list(values)}) must be finite numbers, one at least.")
    mean, n = float(x.mean()), len(x)
    if n == 1:
        return unknown(mean, 1, 1, "too few: 1 seed")
    if (x == x[0]).all():
        return unknown(mean, n, n, "no spread: all seeds gave the same")
    wide = student_quantile(confidence, n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
    return sampled_bounds(mean, mean - wide, mean + wide, n, n)


def _count_others(means: np.ndarray) -> int:
    """Return how many groups have another mean than most do."""
    return len(means) - int(np.unique(means, return_counts=True)[1].max())


def _student_and_hall(errors: np.ndarray, reach: float) -> tuple[float, float]:
    """Return how far an interval reaches below and above a sum whose terms have these errors (g,).

    reach: Student's quantile.

    Hall's cubic: T + s T^2 / 3 + s^2 T^3 / 27 + s / 6, with s the skewness over the root of g, is
    nearly Student's; its inverse is a cube root.
    """
    num = len(errors)
    rest = errors - errors.mean()
    deviation = math.sqrt(float(rest @ rest) / (num - 1))
    scale = math.sqrt(float(errors @ errors) * (num - 1) / num)
    below = above = reach
    if deviation > 0:
        third = float((rest**3).sum()) * num / ((num - 1) * (num - 2))
        s = third / deviation**3 / math.sqrt(num)
        if abs(s) > 1e-9:
            below = max(reach, 3 / s * (np.cbrt(1 + s * (reach - s / 6)) - 1))
            above = max(reach, -3 / s * (np.cbrt(1 + s * (-reach - s / 6)) - 1))
    return float(below) * scale, float(above) * scale
