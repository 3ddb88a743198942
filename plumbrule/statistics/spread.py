"""The gap between the highest and lowest mean of several classes, and what chance makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from plumbrule.statistics.groups import column, group_index
from plumbrule.statistics.intervals import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Interval,
    checked_confidence,
    sampled_bounds,
    too_few,
)

MIN_GROUPS = 10
"""Groups of each class below which the gap has no bounds: a bootstrap of fewer is too narrow."""
_CELLS = 2_000_000  # counts held at once while resampling, so 23,679 prompts need 16 MB


def spread_interval(
    values: ArrayLike,
    members: Sequence,
    groups: Sequence | None = None,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the highest less the lowest mean over the classes named in `members` (n,).

    `groups` are resampled inside each class, so a small class never vanishes. The largest of
    several noisy means lies above the largest true one: the value is biased upwards, and its low
    bound above 0 is no evidence of a difference. Hold it against `chance_spread`.

    Raises: ValueError: as `mean_interval`, or fewer than two classes.
    """
    x = column("values", values)
    classes, index = _classes(members, groups, len(x))
    centre = [x[rows].mean() for rows in classes]
    value, num_groups = float(max(centre) - min(centre)), int(index.max()) + 1
    fewest = min(len(np.unique(index[rows])) for rows in classes)
    if fewest < MIN_GROUPS:
        return too_few(value, len(x), fewest, MIN_GROUPS)._replace(groups=num_groups)
    means = []
    for number, rows in enumerate(classes):
        inside = group_index(index[rows], len(rows))
        means.append(_resampled_means(x[rows], inside, num_resamples, (seed, number)))
    table = np.stack(means)
    tail = (1 - checked_confidence(confidence)) / 2
    low, high = np.quantile(table.max(axis=0) - table.min(axis=0), (tail, 1 - tail))
    return sampled_bounds(value, float(low), float(high), len(x), num_groups)


def chance_spread(
    values: ArrayLike,
    members: Sequence,
    groups: Sequence | None = None,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> float:
    """Return the spread that classes without any difference would stay below, in `confidence` of
    shuffles: groups are dealt to the classes anew, each class keeping its number of groups.

    A group whose items stand in several classes is one group in each. Raises: as
    `spread_interval`.
    """
    x = column("values", values)
    classes, index = _classes(members, groups, len(x))
    sums, counts, sizes = [], [], []
    for rows in classes:
        inside = group_index(index[rows], len(rows))
        sums.append(np.bincount(inside, x[rows]))
        counts.append(np.bincount(inside))
        sizes.append(len(sums[-1]))
    total, count = np.concatenate(sums), np.concatenate(counts)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rng = np.random.default_rng(seed)
    spreads = np.empty(num_resamples)
    for draw in range(num_resamples):
        order = rng.permutation(len(total))
        means = np.add.reduceat(total[order], starts) / np.add.reduceat(count[order], starts)
        spreads[draw] = means.max() - means.min()
    return float(np.quantile(spreads, confidence))


def _classes(
    members: Sequence, groups: Sequence | None, n: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the row numbers of each class, and the group number of every row."""
    member = group_index(members, n)
    if member.max() < 1:
        raise ValueError("members must name at least two classes; a spread needs two means.")
    return [np.flatnonzero(member == c) for c in range(member.max() + 1)], group_index(groups, n)


def _resampled_means(
    x: np.ndarray, index: np.ndarray, num_resamples: int, seed: tuple[int, ...]
) -> np.ndarray:
    """Return the means (num_resamples,) of `x` with the groups of `index` resampled."""
    sums, counts = np.bincount(index, x), np.bincount(index)
    return np.concatenate(
        [(t @ sums) / (t @ counts) for t in _resamples(len(sums), num_resamples, seed)]
    )


def _resamples(num_groups: int, num_resamples: int, seed: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield blocks (r, num_groups) float64: how often each group occurs in each resample."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // num_groups)
    for start in range(0, num_resamples, rows):
        r = min(rows, num_resamples - start)
        drawn = rng.integers(num_groups, size=(r, num_groups))
        drawn += np.arange(r)[:, None] * num_groups
        counts = np.bincount(drawn.ravel(), minlength=r * num_groups)
        yield counts.reshape(r, num_groups).astype(np.float64)
