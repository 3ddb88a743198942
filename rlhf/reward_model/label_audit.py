"""What rankings say about whoever made them: how noisy, how fond of length, how often reversed.

Where the utility of each answer is known without noise (the generated world's, say), a ranking is a
measurement of the labeller. The model is Thurstone's (1927, case V): an answer is perceived at

    utility + length_taste * words / 10 + noise * z,   z standard normal, drawn per answer,

so one answer is put above another with probability Phi(gap / (sqrt(2) * noise)), the gap being that
of utility and taste. Where rankings were reversed on purpose (`Preference.flipped`), noise alone
would be blamed for labels that are wrong however wide the gap; then a pair is ordered so with
probability

    (1 - flipped) * Phi(gap / (sqrt(2) * noise)) + flipped * Phi(-gap / (sqrt(2) * noise))

and `flipped` is found too: wrong labels at wide gaps are its trace. Where the noise is as wide as
the gaps the two look alike, and both intervals are wide. What is unknown is fitted by
maximum likelihood over all ordered pairs; intervals resample prompts, since pairs of one prompt
share answers and turn together. The rankings alone are read, never the annotator's scores nor which
rankings were flipped.

Of rankings that a reward model or a language model made, `noise` is how far that model's taste lies
from the utility, as if it were drawn anew for each answer, beside whatever noise was planted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plumbrule.data.records import Preference
from plumbrule.statistics import CONFIDENCE, Interval, sampled_bounds, too_few

LEAST_NOISE = 0.01
"""Utility; labels without a contradiction say no more than that the noise is below this, which is
then reported as 0."""
LEAST_FLIPPED = 1e-4
"""Share; what is no higher is reported as 0."""
MOST_TIED = 0.01
"""Share of pairs of different utility that may tie."""
MOST_NOISE = 10.0
MOST_TASTE = 10.0
NUM_RESAMPLES = 200
MIN_GROUPS = 10
"""Prompts below which the bootstrap of a fit has no bounds."""


class LabellerFit(NamedTuple):
    """The most likely labeller: noise in utility, taste in utility per ten words, share flipped."""

    noise: float = 0.3
    length_taste: float = 0.0
    flipped: float = 0.0


PLAIN, FLIPPING = LabellerFit(), LabellerFit(flipped=0.1)
"""Where the search begins for a labeller whose rankings were never turned round, and some were."""


def audit(preferences: Sequence[Preference]) -> dict[str, Interval]:
    """Return the labeller's `noise` and `length_taste`, both in utility, with intervals; and
    `flipped`, the share of reversed rankings, where `Preference.flipped` says that some may be.

    Preferences need `utilities`; others are left out. Empty where none
    is left, and where many answers of different utility tie: what a labeller calls equal is then
    wider than a point, and leaving ties out would make the labels look surer than they are.
    """
    by_prompt: dict[tuple, list[np.ndarray]] = {}
    num_tied = num_pairs = 0
    flips = False
    for preference in preferences:
        if len(pairs := _pairs(preference)):
            by_prompt.setdefault(preference.messages, []).append(pairs)
            num_tied += _count_unequal_ties(preference)
            num_pairs += len(pairs)
            flips = flips or preference.flipped is not None
    groups = [np.concatenate(several) for several in by_prompt.values()]
    if len(groups) < 2 or num_tied > MOST_TIED * num_pairs:
        return {}
    fitted = fit(np.concatenate(groups), FLIPPING if flips else PLAIN)
    n = sum(len(pairs) for pairs in groups)
    names = [name for name in LabellerFit._fields if flips or name != "flipped"]
    if len(groups) < MIN_GROUPS:
        return {name: too_few(getattr(fitted, name), n, len(groups), MIN_GROUPS) for name in names}
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        chosen = rng.integers(len(groups), size=len(groups))
        near = fitted._replace(flipped=max(fitted.flipped, LEAST_FLIPPED)) if flips else fitted
        drawn.append(fit(np.concatenate([groups[g] for g in chosen]), near))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.array(drawn), (tail, 1 - tail), axis=0)
    return {
        name: sampled_bounds(float(fitted[i]), float(low[i]), float(high[i]), n, len(groups))
        for i, name in enumerate(names)
    }


def fit(pairs: np.ndarray, start: LabellerFit = PLAIN) -> LabellerFit:
    """Return the most likely labeller; `flipped` is fitted where its start is above 0, else 0.

    Args: pairs: (n, 2), utility and words / 10 of the answer ranked higher, less those of the
    other. start: where the search begins.
    """
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    flips = start.flipped > 0

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.sqrt(2.0) * np.exp(at[0])
        z = (pairs[:, 0] + at[1] * pairs[:, 1]) / scale
        log_right, log_wrong = log_ndtr(z), log_ndtr(-z)
        if flips:
            log_p = np.logaddexp(np.log1p(-at[2]) + log_right, np.log(at[2]) + log_wrong)
        else:
            log_p = log_right
        density = np.exp(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - log_p)
        slope = (1 - 2 * at[2]) * density  # d log p / dz
        gradient = [np.mean(slope * z), -np.mean(slope * pairs[:, 1]) / scale]
        of_flips = np.mean(np.exp(log_right - log_p) - np.exp(log_wrong - log_p)) if flips else 0.0
        return -float(np.mean(log_p)), np.array([*gradient, of_flips])

    most = 0.5 if flips else 0.0
    found = minimize(
        loss,
        np.array([np.log(max(start.noise, 10 * LEAST_NOISE)), start.length_taste, start.flipped]),
        jac=True,
        method="L-BFGS-B",
        bounds=[
            (np.log(LEAST_NOISE), np.log(MOST_NOISE)),
            (-MOST_TASTE, MOST_TASTE),
            (LEAST_FLIPPED if flips else 0.0, most),
        ],
    ).x
    least = np.array([np.log(LEAST_NOISE), *found[1:]])
    quiet = loss(least)[0] <= loss(found)[0] + 1e-9  # as likely with no noise at all
    flipped = float(found[2]) if found[2] > LEAST_FLIPPED else 0.0
    return LabellerFit(0.0 if quiet else float(np.exp(found[0])), float(found[1]), flipped)


def _count_unequal_ties(preference: Preference) -> int:
    """Return how many pairs tie whose utilities differ."""
    utilities, ranks = preference.utilities, preference.ranks
    if utilities is None:
        return 0
    numbers = range(len(ranks))
    return sum(
        ranks[i] == ranks[j] and utilities[i] != utilities[j]
        for i in numbers
        for j in numbers
        if i < j
    )


def _pairs(preference: Preference) -> np.ndarray:
    """Return (n, 2): utility and words / 10, better less worse, of a ranking's ordered pairs."""
    utilities = preference.utilities
    if utilities is None:
        return np.zeros((0, 2))
    words = [len(text.split()) / 10 for text in preference.responses]
    rows = [(utilities[i] - utilities[j], words[i] - words[j]) for i, j in preference.pairs()]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)
