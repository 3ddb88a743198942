"""Intervals of statistics that are no means: correlations, slopes, AUROC."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from plumbrule.statistics.groups import column, group_index, same_length
from plumbrule.statistics.intervals import CONFIDENCE, Interval, sampled_bounds, too_few, unknown
from plumbrule.statistics.shares import student_quantile

MIN_GROUPS = 10
"""Groups below which a statistic that is no mean has no bounds: it is too far from linear."""
MOST_BLOCKS = 200
"""Groups are dealt into at most as many blocks that are left out one by one."""


def jackknife_interval(
    statistic: Callable[..., float],
    columns: Sequence[ArrayLike],
    groups: Sequence | np.ndarray | None = None,
    *,
    slope: Callable[[float], float] | None = None,
    back: Callable[[float, float], float] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return `statistic(*columns)` with Student's interval over a jackknife that leaves out groups.

    With a transformation the interval is made on its scale and mapped back, which keeps a bounded
    statistic in its bounds: `slope(value)` is its derivative, `back(value, step)` the value a step
    further on that scale. There are no bounds with fewer than `MIN_GROUPS` groups, or where the
    statistic is not finite with some group left out.

    Args: columns: (n,) each.
    Raises: ValueError: a column is empty, not finite or of another length.
    """
    data = [column("columns", values) for values in columns]
    for other in data[1:]:
        same_length("columns", other, data[0])
    index, value = group_index(groups, len(data[0])), float(statistic(*data))
    n, num_groups = len(data[0]), int(index.max()) + 1
    if num_groups < MIN_GROUPS:
        return too_few(value, n, num_groups, MIN_GROUPS)
    num_blocks = min(num_groups, MOST_BLOCKS)
    dealt = np.random.default_rng(0).permutation(num_groups) % num_blocks
    block = dealt[index]
    without = np.array(
        [statistic(*(x[block != b] for x in data)) for b in range(num_blocks)], dtype=np.float64
    )
    if not (math.isfinite(value) and np.isfinite(without).all()):
        return unknown(value, n, num_groups, "not defined with some groups left out")
    rest = without - without.mean()
    error = math.sqrt(float(rest @ rest) * (num_blocks - 1) / num_blocks)
    step = student_quantile(confidence, num_blocks - 1) * error
    if slope is None or back is None:
        return sampled_bounds(value, value - step, value + step, n, num_groups)
    step *= slope(value)
    return sampled_bounds(value, back(value, -step), back(value, step), n, num_groups)
