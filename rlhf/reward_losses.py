"""The loss that a reward model learns from, as a pure function of scores.

A ranking says which answer is better, never by how much. Bradley and Terry (1952) take the chance
that answer i beats answer j as sigmoid(s_i - s_j); the loss is the negative log-likelihood of the
rankings under it (Ouyang et al. 2022, arXiv:2203.02155, eq. 1). Only differences of scores occur in
it, so a reward model's zero is arbitrary and is fixed afterwards by `normalisation`.

Scores and pairs are kept apart: `scores (n,)` holds one number per answer and `pairs (p, 2)` says
which of them are compared. An answer that stands in many pairs thus needs to go through the model
once only, and a pair is the special case n = 2, p = 1. Averaging over pairs is left to the caller,
which alone knows how many pairs an optimizer step has over all micro-batches and processes.

Left out: label smoothing by the annotator's confidence, and the centring term of Eisenstein et al.
2023. A margin is used where the data state one, as TRL's RewardTrainer does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bradley_terry(scores: Tensor, pairs: Tensor, margins: Tensor | None = None) -> Tensor:
    """Return the loss (p,) of each pair in nats, -log sigmoid(better - worse - margin).

    The margin is that of Touvron et al. 2023 (arXiv:2307.09288, eq. 2): the better answer must lead
    by more than `margin` before its loss falls below log 2.

    Args: scores: (n,) float, one per answer. pairs: (p, 2) int64, rows (better, worse) that index
    `scores`. margins: (p,) or None for none.
    Raises: ValueError: shapes do not fit.
    """
    return -F.logsigmoid(score_gaps(scores, pairs) - _column(margins, pairs))


def score_gaps(scores: Tensor, pairs: Tensor) -> Tensor:
    """Return better - worse (p,) for `scores` (n,) and `pairs` (p, 2); above 0 = ordered rightly.

    Raises: ValueError: shapes do not fit.
    """
    if scores.ndim != 1 or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"scores (=shape {tuple(scores.shape)}) and pairs (=shape {tuple(pairs.shape)}) must "
            "have shapes (n,) and (p, 2)."
        )
    return scores[pairs[:, 0]] - scores[pairs[:, 1]]


def normalisation(scores: Tensor) -> tuple[float, float]:
    """Return (mean, std) of `scores` (n,), float64, population variance.

    A reward (score - mean) / std then has mean 0 and variance 1 on the answers these scores came
    from (Ziegler et al. 2019, arXiv:1909.08593, section 2.1: on samples of the initial policy).

    Raises: ValueError: fewer than 2 scores, one not finite, or all equal.
    """
    exact = scores.detach().to("cpu", torch.float64)
    if exact.ndim != 1 or len(exact) < 2:
        raise ValueError(f"scores (=shape {tuple(exact.shape)}) must hold at least two numbers.")
    if not torch.isfinite(exact).all():
        raise ValueError("scores must be finite; NaN and Inf have no mean.")
    mean, std = float(exact.mean()), float(exact.std(correction=0))
    if std <= 1e-12 * max(1.0, abs(mean)):
        raise ValueError(f"scores must differ; all {len(exact)} of them are {mean:g}.")
    return mean, std


def _column(margins: Tensor | None, pairs: Tensor) -> Tensor | float:
    if margins is None:
        return 0.0
    if margins.shape != pairs.shape[:1]:
        raise ValueError(
            f"margins (=shape {tuple(margins.shape)}) must have one entry per pair "
            f"(={len(pairs)} pairs)."
        )
    return margins
