"""How a token is picked from logits and its log-prob read off: where chance enters."""

from __future__ import annotations

import torch
from torch import Tensor


def pick(logits: Tensor, temperature: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the picked token ids (b,) int64 and their log-probs (b,) float32.

    Inverse CDF in float64: the first token whose cumulative probability exceeds the draw, so a
    token of probability 0 is never picked. Temperature 0: the likeliest token, log-prob at 1.

    Args: logits: (b, v). draws: (b,) float64 in [0, 1).
    """
    scaled = logits.double() / (temperature or 1.0)
    top = scaled.amax(-1, keepdim=True)
    weights = scaled.sub_(top).exp_()
    if temperature == 0:
        picked, total = logits.argmax(-1), weights.sum(-1)
    else:
        cumulative = weights.cumsum_(-1)
        total = cumulative[:, -1]
        # Draws are at most 1 - 2^-53, so the product always rounds below the total.
        target = (draws * total)[:, None]
        picked = torch.searchsorted(cumulative, target, right=True)[:, 0]
        picked = picked.clamp(max=logits.shape[-1] - 1)  # NaN only; the caller refuses it
    own = logits.gather(-1, picked[:, None])[:, 0].double() / (temperature or 1.0)
    return picked, (own - top[:, 0] - total.log()).float()
