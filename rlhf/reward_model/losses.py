"""The losses that a reward model learns from, as pure functions of scores.

A ranking says which answer is better, never by how much. Bradley and Terry (1952) take the chance
that answer i beats answer j as sigmoid(s_i - s_j); the loss is the negative log-likelihood of the
rankings under it (Ouyang et al. 2022, arXiv:2203.02155, eq. 1). Only differences of scores occur in
it, so a reward model's zero is arbitrary and is fixed afterwards by `normalisation`.

Scores and pairs are kept apart: `scores (n,)` holds one number per answer and `pairs (p, 2)` says
which of them are compared. An answer that stands in many pairs thus needs to go through the model
once only, and a pair is the special case n = 2, p = 1. Averaging over pairs is left to the caller,
which alone knows how many pairs an optimizer step has over all micro-batches and processes.

Plackett and Luce take a ranking as a whole: the best answer is chosen from all, the next from the
rest, and so on, each with the chance softmax(s). For two answers that is Bradley-Terry. Its top-k
form ends after k choices; with k = 1 it is the softmax over K answers of which one was picked.

A tie says something too: that two answers are about as good. Rao and Kupper take it that a judge
sees no difference within a threshold, Davidson that a tie is likeliest between equals; both are
given the chance with which equals tie, and both are Bradley-Terry where that is 0.

Labels are wrong now and then. `smoothing` says that each may be, with a chance, and asks for no
surer opinion than that; `noise_rate` takes the chance as known and corrects the loss, so that its
mean over noisy labels is the loss on clean ones. `centring` holds the zero of scores in place while
training; afterwards `normalisation` does. A margin is used where the data state one, as TRL's
RewardTrainer does.

Left out: the annotator's confidence as a weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from plumbrule.rounding import is_rounding, precision_of


def bradley_terry(
    scores: Tensor,
    pairs: Tensor,
    margins: Tensor | None = None,
    smoothing: float = 0.0,
    noise_rate: float = 0.0,
) -> Tensor:
    """Return the loss (p,) of each pair in nats, -log sigmoid(better - worse - margin).

    The margin is that of Touvron et al. 2023 (arXiv:2307.09288, eq. 2): the better answer must lead
    by more than `margin` before its loss falls below log 2.

    With l the loss of the label and l' that of its opposite: smoothing e gives (1 - e) l + e l',
    a known noise rate e gives ((1 - e) l - e l') / (1 - 2 e), whose mean over labels that are
    turned round with chance e is l (Natarajan et al. 2013, lemma 1). It may be negative.

    Args: scores: (n,) float, one per answer. pairs: (p, 2) int64, rows (better, worse) that index
    `scores`. margins: (p,) or None for none. smoothing, noise_rate: in [0, 0.5).
    Raises: ValueError: shapes do not fit, or both smoothing and noise_rate are given.
    """
    if smoothing and noise_rate:
        raise ValueError(
            f"smoothing (={smoothing}) and noise_rate (={noise_rate}) must not both be above 0."
        )
    gaps = score_gaps(scores, pairs) - _column(margins, pairs)
    label, opposite = -F.logsigmoid(gaps), -F.logsigmoid(-gaps)
    if noise_rate:
        return ((1.0 - noise_rate) * label - noise_rate * opposite) / (1.0 - 2.0 * noise_rate)
    return (1.0 - smoothing) * label + smoothing * opposite if smoothing else label


def centring(scores: Tensor, pairs: Tensor) -> Tensor:
    """Return (s_i + s_j)^2 (p,) of each pair: 0 where its scores lie around 0.

    Eisenstein et al. 2023 (arXiv:2312.09244, section 4.2), as TRL's RewardTrainer has it.
    """
    return scores[pairs].sum(dim=1).square()


def mean_by_owner(losses: Tensor, owners: Tensor, num_owners: int) -> Tensor:
    """Return the mean (o,) of the losses (p,) of each owner; each must have one.

    InstructGPT's loss of a ranking is the mean over its pairs, so a long ranking weighs as much as
    a short one (Ouyang et al. 2022, arXiv:2203.02155, eq. 1: the factor 1 / C(K, 2)).

    Args: owners: (p,) int64, whose loss it is, below `num_owners`.
    """
    sums = losses.new_zeros(num_owners).index_add(0, owners, losses)
    return sums / losses.new_zeros(num_owners).index_add(0, owners, torch.ones_like(losses))


def paired_with_ties(
    scores: Tensor, pairs: Tensor, ties: Tensor, rule: str, tie_rate: float
) -> tuple[Tensor, Tensor]:
    """Return the losses (p,) of ordered pairs and (t,) of ties, in nats.

    With g = s_i - s_j and t the chance that equals tie:
    rao_kupper (Rao and Kupper 1967): P(i > j) = sigmoid(g - h), P(tie) = (e^2h - 1) sigmoid(g - h)
    sigmoid(-g - h), h = log((1 + t) / (1 - t)).
    davidson (Davidson 1970): P(i > j) = e^s_i / z, P(tie) = v e^((s_i + s_j) / 2) / z, z their sum
    with e^s_j, v = 2 t / (1 - t).

    Args: scores: (n,) float. pairs: (p, 2) int64, (better, worse). ties: (t, 2) int64.
    Raises: ValueError: another rule, or a tie_rate outside (0, 1).
    """
    if not 0 < tie_rate < 1:
        raise ValueError(f"tie_rate (={tie_rate}) must lie between 0 and 1.")
    gaps, even = score_gaps(scores, pairs), score_gaps(scores, ties)
    if rule == "rao_kupper":
        width = math.log((1 + tie_rate) / (1 - tie_rate))
        tied = -math.log(math.expm1(2 * width)) - F.logsigmoid(even - width)
        return -F.logsigmoid(gaps - width), tied - F.logsigmoid(-even - width)
    if rule == "davidson":
        spread = math.log(2 * tie_rate / (1 - tie_rate))
        return _davidson(gaps, spread) - gaps / 2, _davidson(even, spread) - spread
    raise ValueError(f"rule (={rule}) must be rao_kupper or davidson.")


def _davidson(gaps: Tensor, spread: float) -> Tensor:
    """Return log z of each pair, its scores shifted to +- half their gap."""
    tie = torch.full_like(gaps, spread)
    return torch.stack([gaps / 2, -gaps / 2, tie]).logsumexp(0)


def plackett_luce(scores: Tensor, ranks: Tensor, top: int | None = None) -> Tensor:
    """Return the loss () of one ranking, in nats per choice.

    -1 / m sum_i log(exp s_i / sum_{j: r_j >= r_i} exp s_j) over the m answers that are not ranked
    last (Plackett 1975; Luce 1959), or over those of them whose rank is at most `top`. Answers that
    tie are each chosen from themselves and all below them (Breslow's rule). K = 2 is Bradley-Terry.

    Args: scores: (k,) float. ranks: (k,) int64, 1 = best, equal = tie. top: None: all ranks.
    Raises: ValueError: shapes differ, or all ranks are equal.
    """
    if scores.ndim != 1 or scores.shape != ranks.shape:
        raise ValueError(
            f"scores (=shape {tuple(scores.shape)}) and ranks (=shape {tuple(ranks.shape)}) must "
            "both have shape (k,)."
        )
    chosen = ranks < ranks.max()
    if top is not None:
        chosen &= ranks <= top
    if not bool(chosen.any()):
        raise ValueError("ranks must differ; a ranking of ties says nothing.")
    left = torch.where(ranks[None, :] >= ranks[:, None], scores[None, :], -torch.inf)
    return (left.logsumexp(dim=1) - scores)[chosen].mean()


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

    Raises: ValueError: fewer than 2 scores, one not finite, or all equal up to rounding.
    """
    exact = scores.detach().to("cpu", torch.float64)
    if exact.ndim != 1 or len(exact) < 2:
        raise ValueError(f"scores (=shape {tuple(exact.shape)}) must hold at least two numbers.")
    if not torch.isfinite(exact).all():
        raise ValueError("scores must be finite; NaN and Inf have no mean.")
    mean, std = float(exact.mean()), float(exact.std(correction=0))
    if is_rounding(std, float(exact.abs().max()), precision_of(scores.dtype)):
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
