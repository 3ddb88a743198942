"""Where a spread is only rounding: the one place that says so.

What is divided by its own standard deviation (or range) must differ. Equal numbers seldom do to
the last bit: the mean of 0.1, 0.1, 0.1 is not 0.1, and one response scored in two batches gives
two scores. Divided by such a spread, nothing becomes -1, -1, -1. So a spread of a few units in the
last place of the largest number counts as none, at every scale and in both precisions.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

ULPS = 16
"""Units in the last place. A sum or two of float32 numbers is off by one or two of them; a spread
that tells responses apart is thousands."""

N = TypeVar("N")


def is_rounding(spread: N, largest: N, precision: str) -> N:
    """Return whether `spread` is what rounding alone makes of equal numbers (bool, elementwise).

    A spread of 0 always is, a NaN never.

    Args: spread: standard deviation or range, a number, array or tensor. largest: greatest
    magnitude among the numbers, of the same kind. precision: in which these were computed, such as
    `float32`, whatever holds them now.
    """
    return spread <= ULPS * float(np.finfo(precision).eps) * largest  # type: ignore[operator, return-value]


def precision_of(dtype: object) -> str:
    """Return the name of a numpy or torch dtype, as `float32`."""
    return str(dtype).rpartition(".")[2]
