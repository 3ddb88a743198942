"""The KL estimate against hand values, the reference loop and the true KL."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.kl import k1
from rlhf.masked import masked_mean


@pytest.mark.detail(15)
def test_k1_by_hand() -> None:
    # log-ratios: -1.0 - -1.5 = 0.5;  -2.0 - -1.0 = -1.0 (negative, and kept so);  masked;  0
    logprobs = torch.tensor([[-1.0, -2.0, -9.0, -0.5]])
    ref_logprobs = torch.tensor([[-1.5, -1.0, -1.0, -0.5]])
    mask = torch.tensor([[True, True, False, True]])
    assert k1(logprobs, ref_logprobs, mask).tolist() == [[0.5, -1.0, 0.0, 0.0]]


@pytest.mark.detail(26)
def test_masked_slots_may_hold_anything() -> None:
    mask = torch.tensor([[True, False, False]])
    logprobs = torch.tensor([[-1.0, math.nan, -math.inf]], requires_grad=True)
    kl = k1(logprobs, torch.tensor([[-2.0, 0.0, math.inf]]), mask)
    kl.sum().backward()
    assert kl.tolist() == [[1.0, 0.0, 0.0]]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.detail(8)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_expectation_is_the_kl_of_the_tempered_distributions(temperature: float) -> None:
    """The mean over samples of the policy reaches sum p log(p / q), at the sampling temperature."""
    generator = torch.Generator().manual_seed(0)
    policy = (torch.randn(6, generator=generator).double() / temperature).log_softmax(0)
    reference = (torch.randn(6, generator=generator).double() / temperature).log_softmax(0)
    truth = float((policy.exp() * (policy - reference)).sum())
    tokens = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=generator)
    mask = torch.ones(1, tokens.numel(), dtype=torch.bool)
    estimates = k1(policy[tokens][None], reference[tokens][None], mask)
    error = float(estimates.std()) / math.sqrt(tokens.numel())
    assert abs(float(masked_mean(estimates, mask)) - truth) < 4 * error
    # Clamped at 0, as some code has it, the estimate would miss by many standard errors.
    assert abs(float(estimates.clamp(min=0).mean()) - truth) > 10 * error
