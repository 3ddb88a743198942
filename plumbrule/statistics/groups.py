"""Columns of numbers and the groups that their items come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Grouped(NamedTuple):
    """Totals of a column by group: sums and counts of items, (g,) each."""

    sums: np.ndarray
    counts: np.ndarray

    @property
    def size(self) -> float:
        """Items in the group of an average item: 1 where all are alone."""
        return float(np.square(self.counts).sum() / self.counts.sum())

    @property
    def degrees(self) -> float:
        """Degrees of freedom between groups: as many as equal groups would have, less 1."""
        return max(1.0, float(self.counts.sum()) / self.size - 1)


def by_group(x: np.ndarray, index: np.ndarray) -> Grouped:
    """Return the totals of `x` (n,) over the groups of `index` (n,)."""
    return Grouped(np.bincount(index, x), np.bincount(index).astype(np.float64))


def group_index(groups: Sequence | np.ndarray | None, n: int) -> np.ndarray:
    """Return a number from 0 per item, equal for items of one group.

    Raises: ValueError: `groups` is of another length.
    """
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"groups (={len(groups)} items) must number as many as values (={n}).")
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "iu":
        return np.unique(groups, return_inverse=True)[1]
    seen: dict = {}
    return np.array([seen.setdefault(g, len(seen)) for g in groups], dtype=np.int64)


def column(name: str, values: ArrayLike) -> np.ndarray:
    """Return a column as float64. Raises: ValueError: it is empty, not a row, or not finite."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"{name} (=shape {x.shape}) must be a row of at least one number.")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite; {int((~np.isfinite(x)).sum())} are not.")
    return x


def same_length(name: str, values: np.ndarray, other: np.ndarray) -> None:
    """Raise ValueError unless both have as many items."""
    if len(values) != len(other):
        raise ValueError(f"{name} (={len(values)} items) must number as many as {len(other)}.")
