"""Losses on pairs of answers whose implicit reward is a log-ratio to a reference policy.

DPO (Rafailov et al. 2023, arXiv:2305.18290): if a policy maximises a reward less beta times its KL
to a reference, then beta times its log-ratio to the reference is that reward, up to a constant per
prompt. So a Bradley-Terry loss on differences of log-ratios trains the policy without a reward
model.

Losses are named as in TRL; numbers are equal to TRL 1.16's but for `label_smoothing` of sigmoid,
which TRL reads for other losses only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_losses(
    logratios: Tensor, lengths: Tensor, loss: str, beta: float, label_smoothing: float
) -> Tensor:
    """Return the loss (p,) of each pair, in nats but for hinge and ipo.

    Args: logratios: (2, p), log p(response) - log p_ref(response) in nats, better answers
        first. lengths: (2, p), tokens of the responses, above 0. loss: one of those below.
    Raises: ValueError: another loss.
    """
    chosen, rejected = logratios
    margins = beta * (chosen - rejected)
    match loss:
        case "sigmoid":
            return sigmoid_loss(margins, label_smoothing)
        case "robust":
            return robust_loss(margins, label_smoothing)
        case "hinge":
            return hinge_loss(margins)
        case "ipo":
            chosen, rejected = logratios / lengths
            return ipo_loss(chosen - rejected, beta)
    raise ValueError(f"loss (={loss!r}) must be sigmoid, robust, hinge or ipo.")


def sigmoid_loss(margins: Tensor, label_smoothing: float) -> Tensor:
    """Return -(1 - e) log s(m) - e log s(-m) of margins m (p,), s the logistic function.

    Eq. 7 of Rafailov et al. 2023; with e above 0 conservative DPO (Mitchell 2023, eq. 3), which
    takes a label to be wrong with chance e, and whose best margin is log((1 - e) / e).
    """
    right, wrong = -logsigmoid(margins), -logsigmoid(-margins)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def robust_loss(margins: Tensor, label_smoothing: float) -> Tensor:
    """Return the loss (p,) whose mean over labels flipped with chance e is DPO's on true ones.

    rDPO (Chowdhury et al. 2024, arXiv:2403.00409). It has no lower bound for e above 0.
    """
    right, wrong = -logsigmoid(margins), -logsigmoid(-margins)
    return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)


def hinge_loss(margins: Tensor) -> Tensor:
    """Return max(0, 1 - m) (p,): SLiC's loss (Zhao et al. 2023, arXiv:2305.10425) on log-ratios.

    The form, with the reference in it, is that of Liu et al. 2023 (arXiv:2309.06657).
    """
    return torch.relu(1 - margins)


def ipo_loss(per_token: Tensor, beta: float) -> Tensor:
    """Return (d - 1 / (2 beta))^2 (p,) of differences d of mean log-ratios per token, nats.

    Eq. 17 of Azar et al. 2023 (arXiv:2310.12036) with tau = beta. The means per token are TRL's
    reading of it, agreed with the authors; the paper's text has sums, which grow with length.
    """
    return (per_token - 1 / (2 * beta)) ** 2
