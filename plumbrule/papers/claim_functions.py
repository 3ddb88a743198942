"""Functions that a claim may call: sizes, ends and trends of numbers and curves, and fits by least
squares, with which a paper's functional form is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MANY = 64
"""Most arguments of a function that takes several."""


class ClaimFunction(NamedTuple):
    """One of them. compute: of float64 numbers and arrays (m,). arguments: fewest and most."""

    compute: Callable[..., np.ndarray]
    arguments: tuple[int, int]
    meaning: str


def _several(values: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the numbers of one curve, or of several arguments, as one array (m,)."""
    return np.atleast_1d(values[0]) if len(values) == 1 else np.stack(np.broadcast_arrays(*values))


def _mean(*values: np.ndarray) -> np.ndarray:
    return _several(values).mean(axis=0)


def _least(*values: np.ndarray) -> np.ndarray:
    return _several(values).min(axis=0)


def _most(*values: np.ndarray) -> np.ndarray:
    return _several(values).max(axis=0)


def _first(values: np.ndarray, count: float = 1) -> np.ndarray:
    return np.atleast_1d(values)[: _points(count)].mean()


def _last(values: np.ndarray, count: float = 1) -> np.ndarray:
    return np.atleast_1d(values)[-_points(count) :].mean()


def _points(count: float) -> int:
    """Return a number of points. Raises: ValueError: it is none of at least 1, or a curve."""
    if np.ndim(count) > 0 or not np.isfinite(count) or count < 1:
        raise ValueError(f"count (={count!s:.40}) must be one number of at least 1.")
    return int(count)


def _trend(*values: np.ndarray) -> np.ndarray:
    """Return the least-squares slope of numbers over their places 0, 1, ..., m - 1."""
    y = _several(values)
    places = np.arange(len(y)) - (len(y) - 1) / 2
    return np.asarray(places @ y / (places @ places))


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation; NaN of single numbers, and of two points, which fix it."""
    both = np.stack([np.atleast_1d(x), np.atleast_1d(y)])
    return np.corrcoef(both)[0, 1] if both.shape[1] > 2 else np.asarray(np.nan)


def _fit(y: np.ndarray, columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (1 + k,) of the least-squares fit of y (m,) with an intercept, and what
    it leaves over (m,); all NaN where the points determine none.
    """
    y, *columns_ = np.broadcast_arrays(np.atleast_1d(y), *columns)
    matrix = np.stack([np.ones_like(y), *columns_], axis=1)
    unknown = np.full(matrix.shape[1], np.nan)
    if not (np.isfinite(matrix).all() and np.isfinite(y).all()):
        return unknown, np.full(len(y), np.nan)
    found, _, rank, _ = np.linalg.lstsq(matrix, y, rcond=None)
    if rank < matrix.shape[1]:
        return unknown, np.full(len(y), np.nan)
    return found, y - matrix @ found


def _coefficient(y: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    return _fit(y, columns)[0][-1]


def _explained(y: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Return the share; NaN where a fit has as many coefficients as points, which explains all."""
    y = np.atleast_1d(y)
    if len(y) <= len(columns) + 1:
        return np.asarray(np.nan)
    return 1 - np.square(_fit(y, columns)[1]).sum() / np.square(y - y.mean()).sum()


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, 0.0, x * np.log(np.where(x == 0, 1.0, x)))


FUNCTIONS: dict[str, ClaimFunction] = {
    "abs": ClaimFunction(np.abs, (1, 1), "absolute value"),
    "sqrt": ClaimFunction(np.sqrt, (1, 1), "square root"),
    "log": ClaimFunction(np.log, (1, 1), "natural logarithm"),
    "exp": ClaimFunction(np.exp, (1, 1), "exponential"),
    "xlogx": ClaimFunction(_x_log_x, (1, 1), "x log x, 0 at 0"),
    "min": ClaimFunction(_least, (1, MANY), "least of a curve, or of several numbers"),
    "max": ClaimFunction(_most, (1, MANY), "largest of a curve, or of several numbers"),
    "mean": ClaimFunction(_mean, (1, MANY), "mean of a curve, or of several numbers"),
    "first": ClaimFunction(_first, (1, 2), "mean of a curve's first point, or first n points"),
    "last": ClaimFunction(_last, (1, 2), "mean of a curve's last point, or last n points"),
    "trend": ClaimFunction(
        _trend, (1, MANY), "least-squares slope per step of a curve or of numbers"
    ),
    "correlation": ClaimFunction(_correlation, (2, 2), "Pearson's, of two curves"),
    "coefficient": ClaimFunction(
        _coefficient,
        (2, MANY),
        "of the last curve in the least-squares fit of the first by the others and an intercept",
    ),
    "explained": ClaimFunction(
        _explained,
        (2, MANY),
        "share of the first curve's variance that this fit explains (R squared)",
    ),
}
