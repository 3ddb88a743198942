"""Scores that depend on order alone: AUROC and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from plumbrule.statistics.groups import column, group_index, same_length
from plumbrule.statistics.intervals import CONFIDENCE, Interval, sampled_bounds, too_few
from plumbrule.statistics.jackknife import MIN_GROUPS, jackknife_interval
from plumbrule.statistics.shares import wilson


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return P(score of a positive > score of a negative), ties counted half; chance is 0.5.

    labels: (n,) bool, True = positive. Raises: ValueError: unless both labels occur.
    """
    x, positive = column("scores", scores), np.asarray(labels, dtype=bool)
    same_length("labels", positive, x)
    if positive.all() or not positive.any():
        raise ValueError("labels must hold both True and False; AUROC compares the two.")
    return _auroc(x, positive)


def auroc_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return `auroc` with a jackknife interval over groups, on the scale of log-odds.

    Where every positive lies above every negative (or below), it is a share of as many hits as
    the rarer label has groups, with Wilson's interval. Raises: ValueError: as `auroc`.
    """
    value = auroc(scores, labels)
    x, positive = column("scores", scores), np.asarray(labels, dtype=bool)
    index = group_index(groups, len(x))
    rarer = min(len(np.unique(index[positive])), len(np.unique(index[~positive])))
    if rarer < MIN_GROUPS:
        few = too_few(value, len(x), rarer, MIN_GROUPS)
        return few._replace(groups=int(index.max()) + 1)
    if value in (0.0, 1.0):
        found = wilson(value * rarer, rarer, confidence)
        return sampled_bounds(value, found.low, found.high, len(x), int(index.max()) + 1)
    return jackknife_interval(
        lambda x, y: _auroc(x, y > 0),
        [x, positive.astype(np.float64)],
        index,
        slope=lambda p: 1 / (p * (1 - p)),
        back=lambda p, step: 1 / (1 + (1 - p) / p * math.exp(-step)),
        confidence=confidence,
    )


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return the rank correlation of a and b (n,); ties get their average rank.

    It is 0 where one of them is constant, since nothing then rises with it.

    Raises: ValueError: empty, or lengths differ.
    """
    x, y = column("a", a), column("b", b)
    same_length("b", y, x)
    rx, ry = _ranks(x) - (len(x) + 1) / 2, _ranks(y) - (len(y) + 1) / 2
    scale = float(np.sqrt((rx @ rx) * (ry @ ry)))
    return float(rx @ ry) / scale if scale > 0 else 0.0


def spearman_interval(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return `spearman` with a jackknife interval over groups, on Fisher's scale.

    Raises: ValueError: as `spearman`.
    """
    return correlation_interval(spearman, [a, b], groups, confidence=confidence)


def correlation_interval(
    correlation: Callable[..., float],
    columns: Sequence[ArrayLike],
    groups: Sequence | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return a correlation of columns (n,) with a jackknife interval on Fisher's scale.

    Raises: ValueError: as `jackknife_interval`.
    """
    return jackknife_interval(
        correlation,
        columns,
        groups,
        slope=lambda r: 1 / (1 - r * r) if abs(r) < 1 else 0.0,
        back=lambda r, step: math.tanh(math.atanh(r) + step) if abs(r) < 1 else r,
        confidence=confidence,
    )


def _ranks(x: np.ndarray) -> np.ndarray:
    """Return ranks from 1, ties at their average."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _auroc(x: np.ndarray, positive: np.ndarray) -> float:
    """Return AUROC from the ranks of the positives; NaN where a label is absent."""
    num = int(positive.sum())
    pairs = num * (len(x) - num)
    if pairs == 0:
        return math.nan
    return (float(_ranks(x)[positive].sum()) - num * (num + 1) / 2) / pairs
