"""What RewardBench 2, RM-Bench and plain pairs make of scores; numbers in, numbers out.

A score that ties with another is neither above it nor below: the point is shared, as a guess by
coin would share it. Only RM-Bench, whose script asks for `>`, gives a tie nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_STYLES = 3
TIES_WEIGHTS = (0.30, 0.30, 0.20, 0.20, 0.01)
"""Of RewardBench 2's ties subset; they add up to 1.01, as in its script."""


def best_of(scores: Sequence[float], right: Sequence[int]) -> float:
    """Return 1 where the top score is a right answer's, 1 / k where k answers share it, else 0.

    RewardBench 2 (Malik et al. 2025, arXiv:2506.01937): a tie with a wrong answer is worth what
    drawing one of the k would be. Of several right ones at the top, each has its share.

    Args: right: places of the right answers.
    """
    best = max(scores)
    top = [place for place, score in enumerate(scores) if score == best]
    return sum(place in right for place in top) / len(top)


def pair_share(better: float, worse: float) -> float:
    """Return 1 where the better answer scores higher, 0.5 where they tie, else 0."""
    return 0.5 if better == worse else float(better > worse)


class TieFacts(NamedTuple):
    """What RewardBench 2's ties subset takes of one question's scores.

    accurate: every right answer scores above every wrong one. gap: worst right less best wrong.
    spread: best right less worst right.
    """

    accurate: float
    gap: float
    spread: float


def tie_facts(right: Sequence[float], wrong: Sequence[float]) -> TieFacts:
    """Return the facts of one question from the scores of its right and wrong answers."""
    gap = min(right) - max(wrong)
    return TieFacts(float(gap > 0), gap, max(right) - min(right))


def ties_score(
    tied: np.ndarray, ref: np.ndarray, gap_tied: np.ndarray, gap_ref: np.ndarray, spread: np.ndarray
) -> float:
    """Return the score of RewardBench 2's ties subset, at most 1.01.

    .30 accuracy of the tied questions + .30 of their reference questions, which have one right
    answer + .20 share of questions whose gap is above the spread of their right answers + .20 the
    same with the smaller of the tied and the reference question's gap + .01 mean of tanh(that gap /
    spread - 1), 0 where both are 0. From the authors' script (`process_single_model`); there each
    accuracy is over all its questions, here over the questions that have both sides, as all have in
    the released set.

    Args: (n,) each, one entry a question: accuracies 0 or 1, gaps and spreads in units of score.
    """
    least = np.minimum(gap_ref, gap_tied)
    with np.errstate(divide="ignore", invalid="ignore"):
        margins = np.nan_to_num(np.tanh(least / spread - 1), nan=0.0)
    parts = (
        np.mean(tied),
        np.mean(ref),
        np.mean(gap_tied > spread),
        np.mean(least > spread),
        np.mean(margins),
    )
    return float(sum(w * part for w, part in zip(TIES_WEIGHTS, parts, strict=True)))


def style_matrix(right: Sequence[float], wrong: Sequence[float]) -> dict[str, float]:
    """Return `hard`, `normal`, `easy` and their mean `accuracy` of one question of RM-Bench.

    Liu et al. 2024 (arXiv:2410.16184): entry (i, j) of a 3 x 3 matrix is whether the right answer
    in style i scores above the wrong one in style j; styles are concise, detailed, detailed with
    markdown. hard: the mean above the diagonal, where the wrong answer has the fancier style;
    normal: on it; easy: below it.

    Args: scores of the three right and the three wrong answers, in the order of the styles.
    """
    above = np.array([[float(r > w) for w in wrong] for r in right])
    upper = np.triu_indices(NUM_STYLES, 1)
    hard, normal = float(above[upper].mean()), float(np.diag(above).mean())
    easy = float(above.T[upper].mean())
    return {
        "hard": hard,
        "normal": normal,
        "easy": easy,
        "accuracy": (hard + normal + easy) / 3,
    }
