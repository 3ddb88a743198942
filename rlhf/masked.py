"""Statistics over the tokens that a mask names: the one place that deals with masked positions.

Masks are (b, t) bool, True = counts. A masked position may hold anything, NaN and Inf included, so
it is replaced with `torch.where` and never multiplied by zero: NaN * 0 is NaN, and so is its
gradient. Sums are taken in float64. That costs nothing at (b, t), keeps results independent of
padding and batch order to the last digit of float32, and makes the mean of equal numbers exactly
that number, so that whitening a constant gives exactly 0 and not amplified rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbrule.rounding import is_rounding, precision_of

VARIANCE_FLOOR = 1e-8
"""Added to the variance in `whiten`, as in the code of Ziegler et al. 2019 (arXiv:1909.08593)."""


def fill(x: Tensor, mask: Tensor, value: float = 0.0) -> Tensor:
    """Return `x` with `value` where `mask` is False; no gradient flows to what is replaced."""
    return torch.where(mask, x, torch.full((), value, dtype=x.dtype, device=x.device))


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of `x` over `mask`, () float64."""
    return fill(x.double(), mask).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `x` over `mask`, () float64.

    Raises: ValueError: `mask` holds no True.
    """
    return masked_sum(x, mask) / _count(mask)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Return the population variance of `x` over `mask`, () float64 (divided by n, not n - 1).

    Raises: ValueError: `mask` holds no True.
    """
    return masked_sum((x.double() - masked_mean(x, mask)).square(), mask) / _count(mask)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Return `x` scaled to unit variance over `mask`, like `x`; 0 where `mask` is False.

    The variance is the population's. shift_mean: also bring the mean to 0; otherwise the mean
    stays what it was, as rewards need it (a shift would pay or charge for length). Where `x` varies
    by rounding alone (`plumbrule/rounding.py`), all of it becomes 0 or the mean.
    Raises: ValueError: `mask` holds no True.
    """
    mean, variance = masked_mean(x, mask), masked_var(x, mask)
    centred = (x.double() - mean) * torch.rsqrt(variance + VARIANCE_FLOOR)
    if bool(varies_by_rounding(x, mask)):
        centred = torch.zeros_like(centred)
    return fill(centred if shift_mean else centred + mean, mask).to(x.dtype)


def varies_by_rounding(x: Tensor, mask: Tensor) -> Tensor:
    """Return whether the deviation of `x` over `mask` is rounding in the dtype of `x`, () bool.

    Raises: ValueError: `mask` holds no True.
    """
    largest = fill(x.double(), mask).abs().max()
    return is_rounding(masked_var(x, mask).sqrt(), largest, precision_of(x.dtype))


def row_sums(x: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of each row of `x` over `mask`, (b,) float64."""
    return fill(x.double(), mask).sum(dim=1)


def _count(mask: Tensor) -> int:
    count = int(mask.sum())
    if count == 0:
        raise ValueError(
            "mask (=0 True) must name at least one position; a mean of nothing is undefined."
        )
    return count
