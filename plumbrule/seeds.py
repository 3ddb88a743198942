"""How sure a mean over seeds is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from plumbrule.statistics import CONFIDENCE, Interval


def seed_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of one number per seed (n,) with Student's t interval.

    A bootstrap of three to ten seeds would be too narrow by far (Colas et al. 2018,
    arXiv:1806.08295, section 4.2). The bounds of a single seed are NaN.
    Raises: ValueError: no value, or one that is not finite.
    """
    from scipy.stats import t  # takes a second to import

    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"values (={list(values)}) must be finite numbers, one at least.")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    wide = float(t.ppf(0.5 + confidence / 2, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(mean, mean - wide, mean + wide, len(x))
