"""Whether a probability of 80 % comes true in 80 % of cases.

The calibration error of a calibrated model is never 0: with 100 predictions in ten bins it is about
.07, since the share in a bin misses its mean by chance. So what a calibrated model would show on
the same predictions stands beside the error, and an estimate with that part taken out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from plumbrule.statistics.groups import by_group, column, group_index, same_length
from plumbrule.statistics.intervals import CONFIDENCE, Interval, checked_confidence, unknown
from plumbrule.statistics.shares import effective_size

NUM_DRAWS = 1000
"""Outcomes drawn for a calibrated model."""
_CELLS = 2_000_000  # outcomes held at once


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
    p, y = column("probabilities", probabilities), column("outcomes", outcomes)
    same_length("outcomes", y, p)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities (={p.min():g}..{p.max():g}) must lie in [0, 1].")
    index = _bin_index(p, num_bins)
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


class Calibration(NamedTuple):
    """A calibration error beside what it would be by chance.

    error: as `calibration_error`; it has no bounds, being biased upwards. if_calibrated: that of a
    calibrated model with the same predictions: its mean, and bounds that hold `confidence` of
    outcomes. debiased: the error with its mean square under calibration taken out, at least 0.
    """

    error: Interval
    if_calibrated: Interval
    debiased: Interval


def calibration(
    probabilities: ArrayLike,
    outcomes: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    *,
    num_bins: int = 10,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Calibration:
    """Return the calibration error of predictions, and what of it chance explains.

    Outcomes are drawn as the probabilities say, independently; where those of one group that fall
    into one bin go together, the errors drawn are widened by the root of the design effect. The
    debiased error is sqrt(error^2 - mean square by chance), in the manner of Kumar et al. 2019
    (arXiv:1909.10155, section 4), who correct the root mean square in place of the mean.

    Args and errors: those of `calibration_error`.
    """
    value = calibration_error(probabilities, outcomes, num_bins)
    p, y = column("probabilities", probabilities), column("outcomes", outcomes)
    index, bins = group_index(groups, len(p)), _bin_index(p, num_bins)
    n, num_groups = len(p), int(index.max()) + 1
    errors = _chance_errors(p, np.eye(num_bins)[bins], np.random.default_rng(seed))
    errors *= math.sqrt(_design_effect(y - p, bins, index, float((p * (1 - p)).mean())))
    tail = (1 - checked_confidence(confidence)) / 2
    low, high = np.quantile(errors, (tail, 1 - tail))
    debiased = math.sqrt(max(0.0, value**2 - float(np.square(errors).mean())))
    return Calibration(
        unknown(value, n, num_groups, "biased upwards: see what a calibrated model would show"),
        Interval(float(errors.mean()), float(low), float(high), n, num_groups),
        unknown(debiased, n, num_groups, ""),
    )


def _chance_errors(p: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return errors (NUM_DRAWS,) of outcomes drawn as `p` (n,) says; inside: 0/1, (n, bins)."""
    found = []
    rows = max(1, _CELLS // len(p))
    for start in range(0, NUM_DRAWS, rows):
        drawn = rng.random((min(rows, NUM_DRAWS - start), len(p))) < p
        found.append(np.abs((drawn - p) @ inside).sum(axis=1) / len(p))
    return np.concatenate(found)


def _design_effect(rest: np.ndarray, bins: np.ndarray, index: np.ndarray, variance: float) -> float:
    """Return by how much more the bins' shares vary than those of independent predictions."""
    centred = rest - (np.bincount(bins, rest) / np.maximum(np.bincount(bins), 1))[bins]
    together = group_index(index * (int(bins.max()) + 1) + bins, len(rest))
    if int(together.max()) + 1 in (1, len(rest)):
        return 1.0
    ends = 1.0  # squared distances of a prediction that came true and one that did not, about
    return len(rest) / effective_size(by_group(centred, together), variance, ends, 0.5)


def _bin_index(p: np.ndarray, num_bins: int) -> np.ndarray:
    """Return the bin of each probability, from 0."""
    return np.minimum((p * num_bins).astype(int), num_bins - 1)
