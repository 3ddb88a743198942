"""Maximal marginal relevance: passages that are near the query and not all alike."""

from __future__ import annotations

import numpy as np

from plumbrule.config import require_range


def marginal_relevance(
    relevance: np.ndarray, vectors: np.ndarray, depth: int, weight: float
) -> list[int]:
    """Return the places of `depth` candidates in the order in which they are chosen.

    Each choice maximises weight * relevance - (1 - weight) * its highest cosine with one that is
    chosen (Carbonell and Goldstein 1998, SIGIR, eq. 1); the first equal one is taken.

    Args: relevance: (n,) in the scale of a cosine. vectors: (n, d) of unit length or zero. weight:
        in [0, 1]; 1 keeps the order of relevance.
    Raises: ConfigError: a weight outside [0, 1].
    """
    require_range("mmr", weight, 0.0, 1.0)
    chosen: list[int] = []
    nearest = np.full(len(relevance), -np.inf)
    left = np.ones(len(relevance), dtype=bool)
    for _ in range(min(depth, len(relevance))):
        alike = np.where(np.isfinite(nearest), nearest, 0.0)
        value = np.where(left, weight * relevance - (1.0 - weight) * alike, -np.inf)
        choice = int(np.argmax(value))
        chosen.append(choice)
        left[choice] = False
        nearest = np.maximum(nearest, vectors @ vectors[choice])
    return chosen
