"""What rankings say about whoever made them: how noisy, and how much taste for length.

Where the utility of each answer is known without noise (the generated world's, say), a ranking is a
measurement of the labeller. The model is Thurstone's (1927, case V): an answer is perceived at

    utility + length_taste * words / 10 + noise * z,   z standard normal, drawn per answer,

so one answer is put above another with probability Phi(gap / (sqrt(2) * noise)). Both unknowns are
fitted by maximum likelihood over all ordered pairs; intervals resample prompts, since pairs of one
prompt share answers. The rankings alone are read, never the annotator's scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plumbrule.records import Preference
from plumbrule.statistics import CONFIDENCE, Interval

LEAST_NOISE = 0.01
"""Utility; labels without a contradiction say no more than that the noise is below this, which is
then reported as 0."""
MOST_TIED = 0.01
"""Share of pairs of different utility that may tie."""
MOST_NOISE = 10.0
MOST_TASTE = 10.0
NUM_RESAMPLES = 200


def audit(preferences: Sequence[Preference]) -> dict[str, Interval]:
    """Return the labeller's `noise` and `length_taste`, both in utility, with intervals.

    Preferences need `meta["utilities"]`, one per response; others are left out. Empty where none
    is left, and where many answers of different utility tie: what a labeller calls equal is then
    wider than a point, and leaving ties out would make the labels look surer than they are.
    """
    by_prompt: dict[tuple, list[np.ndarray]] = {}
    num_tied = num_pairs = 0
    for preference in preferences:
        if len(pairs := _pairs(preference)):
            by_prompt.setdefault(preference.messages, []).append(pairs)
            num_tied += _count_unequal_ties(preference)
            num_pairs += len(pairs)
    groups = [np.concatenate(several) for several in by_prompt.values()]
    if len(groups) < 2 or num_tied > MOST_TIED * num_pairs:
        return {}
    fitted = fit(np.concatenate(groups))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        chosen = rng.integers(len(groups), size=len(groups))
        drawn.append(fit(np.concatenate([groups[g] for g in chosen]), start=fitted))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.array(drawn), (tail, 1 - tail), axis=0)
    n = sum(len(pairs) for pairs in groups)
    return {
        name: Interval(float(fitted[i]), float(low[i]), float(high[i]), n)
        for i, name in enumerate(("noise", "length_taste"))
    }


def fit(pairs: np.ndarray, start: tuple[float, float] = (0.3, 0.0)) -> tuple[float, float]:
    """Return the most likely (noise, length_taste).

    Args: pairs: (n, 2), utility and words / 10 of the answer ranked higher, less those of the
    other. start: where the search begins.
    """
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.sqrt(2.0) * np.exp(at[0])
        z = (pairs[:, 0] + at[1] * pairs[:, 1]) / scale
        log_p = log_ndtr(z)
        slope = np.exp(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - log_p)  # d log Phi / dz
        gradient = [np.mean(slope * z), -np.mean(slope * pairs[:, 1]) / scale]
        return -float(np.mean(log_p)), np.array(gradient)

    noise = max(start[0], 10 * LEAST_NOISE)
    found = minimize(
        loss,
        np.array([np.log(noise), start[1]]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(np.log(LEAST_NOISE), np.log(MOST_NOISE)), (-MOST_TASTE, MOST_TASTE)],
    ).x
    least = np.array([np.log(LEAST_NOISE), found[1]])
    quiet = loss(least)[0] <= loss(found)[0] + 1e-9  # as likely with no noise at all
    return (0.0 if quiet else float(np.exp(found[0]))), float(found[1])


def _count_unequal_ties(preference: Preference) -> int:
    """Return how many pairs tie whose utilities differ."""
    utilities, ranks = preference.meta["utilities"], preference.ranks
    numbers = range(len(ranks))
    return sum(
        ranks[i] == ranks[j] and utilities[i] != utilities[j]
        for i in numbers
        for j in numbers
        if i < j
    )


def _pairs(preference: Preference) -> np.ndarray:
    """Return (n, 2): utility and words / 10, better less worse, of a ranking's ordered pairs."""
    utilities = preference.meta.get("utilities")
    if utilities is None:
        return np.zeros((0, 2))
    words = [len(text.split()) / 10 for text in preference.responses]
    rows = [(utilities[i] - utilities[j], words[i] - words[j]) for i, j in preference.pairs()]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)
