"""How sure a number is: intervals that respect that items come in groups.

Answers to three paraphrases of one question, or continuations of six prompts about one actress, are
not independent. So every bootstrap here draws *groups* with replacement and keeps their items
together (Field and Welsh 2007, J. R. Statist. Soc. B 69:369); items without groups are groups of
one. All of it rests on one loop, `_resamples`, which draws how often each group occurs: a mean, a
difference or a spread is then a product of those counts with the groups' sums, and AUROC a weighted
count, so no resample ever copies its items.

Intervals are percentile intervals. With fewer than about 20 groups they are somewhat too narrow; a
single group says nothing about spread, so its bounds are NaN. Rates have their own interval,
`share_interval`: Wilson's, with the number of items cut down by the design effect of the grouping,
because a bootstrap of twenty zeros would claim certainty.

Left out on purpose: p-values. An interval of the difference says as much and how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
_CELLS = 2_000_000  # counts held at once while resampling, so 23,679 prompts need 16 MB


class Interval(NamedTuple):
    """An estimate, its bounds and the number of items it rests on; unknown bounds are NaN."""

    value: float
    low: float
    high: float
    n: int


def mean_interval(
    values: ArrayLike,
    groups: Sequence | None = None,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean of `values` (n,) with a bootstrap interval over groups.

    Raises: ValueError: `values` is empty or not finite, or `groups` is of another length.
    """
    x = _column("values", values)
    index = _group_index(groups, len(x))
    sums, counts = np.bincount(index, x), np.bincount(index)
    drawn = [
        (times @ sums) / (times @ counts) for times in _resamples(len(sums), num_resamples, seed)
    ]
    return _percentiles(float(x.mean()), drawn, len(sums), confidence, len(x))


def paired_interval(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence | None = None,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean of b - a, where a[i] and b[i] (n,) measure one item, bootstrapped by group.

    Raises: ValueError: as `mean_interval`, or a and b are of different lengths.
    """
    x, y = _column("a", a), _column("b", b)
    _same_length("b", y, x)
    return mean_interval(
        y - x, groups, confidence=confidence, num_resamples=num_resamples, seed=seed
    )


def gap_interval(
    a: ArrayLike,
    b: ArrayLike,
    groups_a: Sequence | None = None,
    groups_b: Sequence | None = None,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return mean(b) - mean(a) of two unpaired samples, each side resampled on its own.

    Bounds are NaN where either side is a single group. Raises: ValueError: as `mean_interval`.
    """
    x, y = _column("a", a), _column("b", b)
    means = []
    fewest = len(x)
    for side, (column, groups) in enumerate(((x, groups_a), (y, groups_b))):
        index = _group_index(groups, len(column))
        means.append(_resampled_means(column, index, num_resamples, (seed, side)))
        fewest = min(fewest, int(index.max()) + 1)
    value = float(y.mean() - x.mean())
    return _percentiles(value, [means[1] - means[0]], fewest, confidence, len(x) + len(y))


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
    x = _column("values", values)
    classes, index = _classes(members, groups, len(x))
    means = []
    for number in range(len(classes)):
        rows = classes[number]
        inside = _group_index(index[rows], len(rows))
        means.append(_resampled_means(x[rows], inside, num_resamples, (seed, number)))
    table = np.stack(means)
    fewest = min(len(np.unique(index[rows])) for rows in classes)
    centre = [x[rows].mean() for rows in classes]
    drawn = [table.max(axis=0) - table.min(axis=0)]
    return _percentiles(float(max(centre) - min(centre)), drawn, fewest, confidence, len(x))


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
    x = _column("values", values)
    classes, index = _classes(members, groups, len(x))
    sums, counts, sizes = [], [], []
    for rows in classes:
        inside = _group_index(index[rows], len(rows))
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


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """Return successes / n with Wilson's score interval (Wilson 1927, JASA 22:209).

    Raises: ValueError: unless 0 <= successes <= n and n > 0.
    """
    if not (n > 0 and 0 <= successes <= n):
        raise ValueError(f"successes (={successes}) must lie in [0, n] (n={n}), and n be above 0.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == n else min(1.0, float(centre + half))
    return Interval(p, low, high, round(n))


def share_interval(
    hits: ArrayLike, groups: Sequence | None = None, *, confidence: float = CONFIDENCE
) -> Interval:
    """Return the share of True in `hits` (n,) with Wilson's interval at the effective sample size.

    Effective size = n / design effect, where the design effect is the variance of the ratio over
    groups to that of as many independent items (Kish 1965, ch. 8), never below 1. Where all hits
    are equal the groups can't be told apart from one another, and each counts as one item.

    Raises: ValueError: as `mean_interval`.
    """
    x = _column("hits", hits)
    if not np.isin(x, (0.0, 1.0)).all():
        raise ValueError("hits must be true or false; take mean_interval for other values.")
    index = _group_index(groups, len(x))
    sums, counts = np.bincount(index, x), np.bincount(index)
    n, num_groups, p = len(x), len(sums), float(x.mean())
    effective = float(num_groups)
    if 0.0 < p < 1.0 and num_groups > 1:
        between = np.sum((sums - p * counts) ** 2) / n**2 * num_groups / (num_groups - 1)
        effective = n if between == 0 else min(float(n), p * (1 - p) / float(between))
    bounds = wilson(p * effective, effective, confidence)
    return Interval(p, bounds.low, bounds.high, n)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return P(score of a positive > score of a negative), ties counted half; chance is 0.5.

    labels: (n,) bool, True = positive. Raises: ValueError: unless both labels occur.
    """
    x, positive = _column("scores", scores), _labels(labels)
    _same_length("labels", positive, x)
    return float(_weighted_auroc(x, positive, np.ones((1, len(x))))[0])


def auroc_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence | None = None,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return `auroc` with a bootstrap interval over groups.

    Resamples that happen to lack one label are left out. Raises: ValueError: as `auroc`.
    """
    x, positive = _column("scores", scores), _labels(labels)
    _same_length("labels", positive, x)
    index = _group_index(groups, len(x))
    num_groups = int(index.max()) + 1
    drawn = []
    for times in _resamples(num_groups, num_resamples, seed, width=len(x)):
        values = _weighted_auroc(x, positive, times[:, index])
        drawn.append(values[np.isfinite(values)])
    return _percentiles(auroc(x, positive), drawn, num_groups, confidence, len(x))


class CalibrationBin(NamedTuple):
    """Predictions of like sureness: their mean, the share that came true, and how many they are."""

    low: float
    high: float
    sureness: float
    share: float
    n: int


def calibration_bins(
    probabilities: ArrayLike, outcomes: ArrayLike, num_bins: int = 10
) -> list[CalibrationBin]:
    """Return the bins, equally wide in [0, 1], that hold a prediction, lowest first.

    Args and errors: those of `calibration_error`.
    """
    p, y = _column("probabilities", probabilities), _column("outcomes", outcomes)
    _same_length("outcomes", y, p)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities (={p.min():g}..{p.max():g}) must lie in [0, 1].")
    index = np.minimum((p * num_bins).astype(int), num_bins - 1)
    return [
        CalibrationBin(
            b / num_bins,
            (b + 1) / num_bins,
            float(p[index == b].mean()),
            float(y[index == b].mean()),
            int((index == b).sum()),
        )
        for b in np.unique(index)
    ]


def calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, num_bins: int = 10) -> float:
    """Return the expected calibration error over equal-width bins of [0, 1].

    sum over bins of (items in bin / n) * |mean outcome - mean probability| (Guo et al. 2017,
    arXiv:1706.04599, eq. 3, with the probability of the event in place of top-class confidence).

    Args: probabilities: (n,) in [0, 1]. outcomes: (n,) 0 or 1, or a share in between.
    Raises: ValueError: empty, lengths differ, or a probability outside [0, 1].
    """
    bins = calibration_bins(probabilities, outcomes, num_bins)
    return sum(b.n * abs(b.share - b.sureness) for b in bins) / sum(b.n for b in bins)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return the rank correlation of a and b (n,); ties get their average rank.

    It is 0 where one of them is constant, since nothing then rises with it.

    Raises: ValueError: empty, or lengths differ.
    """
    x, y = _column("a", a), _column("b", b)
    _same_length("b", y, x)
    rx, ry = _ranks(x) - (len(x) + 1) / 2, _ranks(y) - (len(y) + 1) / 2
    scale = float(np.sqrt((rx @ rx) * (ry @ ry)))
    return float(rx @ ry) / scale if scale > 0 else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
    """Return ranks from 1, ties at their average."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _weighted_auroc(x: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return AUROC (r,) of items that occur `weights` (r, n) times; NaN where a label is absent."""
    _, level = np.unique(x, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(level[order]) > 0])
    weights = weights[:, order]
    up = np.add.reduceat(weights * positive[order], starts, axis=1)
    down = np.add.reduceat(weights * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (up * below).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))


def _resamples(
    num_groups: int, num_resamples: int, seed: int | tuple[int, ...], width: int = 0
) -> Iterator[np.ndarray]:
    """Yield blocks (r, num_groups) float64: how often each group occurs in each resample.

    width: what a caller will hold per resample, where that is more than `num_groups`.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // max(num_groups, width))
    for start in range(0, num_resamples, rows):
        r = min(rows, num_resamples - start)
        drawn = rng.integers(num_groups, size=(r, num_groups))
        drawn += np.arange(r)[:, None] * num_groups
        counts = np.bincount(drawn.ravel(), minlength=r * num_groups)
        yield counts.reshape(r, num_groups).astype(np.float64)


def _resampled_means(
    x: np.ndarray, index: np.ndarray, num_resamples: int, seed: tuple[int, ...]
) -> np.ndarray:
    """Return the means (num_resamples,) of `x` with the groups of `index` resampled."""
    sums, counts = np.bincount(index, x), np.bincount(index)
    return np.concatenate(
        [(t @ sums) / (t @ counts) for t in _resamples(len(sums), num_resamples, seed)]
    )


def _percentiles(
    value: float, drawn: Sequence[np.ndarray], num_groups: int, confidence: float, n: int
) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence (={confidence}) must lie in (0, 1).")
    if num_groups < 2:
        return Interval(value, float("nan"), float("nan"), n)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), (tail, 1 - tail))
    return Interval(value, float(low), float(high), n)


def _classes(
    members: Sequence, groups: Sequence | None, n: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the row numbers of each class, and the group number of every row."""
    member = _group_index(members, n)
    if member.max() < 1:
        raise ValueError("members must name at least two classes; a spread needs two means.")
    return [np.flatnonzero(member == c) for c in range(member.max() + 1)], _group_index(groups, n)


def _group_index(groups: Sequence | np.ndarray | None, n: int) -> np.ndarray:
    """Return a number from 0 per item, equal for items of one group, in order of appearance."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"groups (={len(groups)} items) must number as many as values (={n}).")
    seen: dict = {}
    return np.array([seen.setdefault(g, len(seen)) for g in groups], dtype=np.int64)


def _column(name: str, values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"{name} (=shape {x.shape}) must be a row of at least one number.")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite; {int((~np.isfinite(x)).sum())} are not.")
    return x


def _labels(labels: ArrayLike) -> np.ndarray:
    positive = np.asarray(labels, dtype=bool)
    if positive.all() or not positive.any():
        raise ValueError("labels must hold both True and False; AUROC compares the two.")
    return positive


def _same_length(name: str, values: np.ndarray, other: np.ndarray) -> None:
    if len(values) != len(other):
        raise ValueError(f"{name} (={len(values)} items) must number as many as {len(other)}.")
