"""The KL estimate against hand values, the reference loop and the true KL."""

from __future__ import annotations

import math

import pytest
import torch

from plumbrule.errors import ConfigError
from rlhf.masked import masked_mean
from rlhf.ppo.config import KLConfig, PPOConfig
from rlhf.ppo.kl import estimate, k1, kl_loss, next_kl_coefficient, num_cut


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


def distributions(seed: int = 0, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, size, generator=draw, dtype=torch.float64)
    return logits.log_softmax(1).unbind()


def sampled(log_p: torch.Tensor, number: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.multinomial(log_p.exp(), number, replacement=True, generator=draw)


@pytest.mark.detail(17)
@pytest.mark.option("ppo.kl.estimator", "k1", "k2", "k3")
def test_estimators_by_hand() -> None:
    # log-ratio 1: k1 = 1, k2 = 1/2, k3 = exp(-1) - 1 + 1 = 0.367879.
    # log-ratio -2: k1 = -2, k2 = 2, k3 = exp(2) - 1 - 2 = 4.389056.
    mask = torch.tensor([[True, True, False]])
    new, ref = torch.tensor([[-1.0, -3.0, math.nan]]), torch.tensor([[-2.0, -1.0, 0.0]])
    assert estimate(new, ref, mask, "k1").tolist() == [[1.0, -2.0, 0.0]]
    assert estimate(new, ref, mask, "k2").tolist() == [[0.5, 2.0, 0.0]]
    assert estimate(new, ref, mask, "k3").tolist()[0] == pytest.approx(
        [0.367879, 4.389056, 0], rel=1e-5
    )


@pytest.mark.detail(17)
def test_k3_charges_no_token_more_than_twenty_nats_and_the_cut_ones_are_counted() -> None:
    # log-ratio -3: exp(3) - 1 - 3 = 16.0855.  -3.2: exp(3.2) - 1 - 3.2 = 20.33, cut to 20.
    # -100 would be exp(100), and was exp(20) - 21 = 4.85e8.  19: exp(-19) - 1 + 19 = 18.
    new = torch.tensor([[-3.0, -3.2, -100.0, -math.inf, 19.0, 0.0]])
    mask = torch.ones(1, 6, dtype=torch.bool)
    found = estimate(new, torch.zeros(1, 6), mask, "k3")
    assert found.tolist()[0] == pytest.approx([16.0855, 20.0, 20.0, 20.0, 18.0, 0.0], rel=1e-5)
    assert num_cut(new, "k3") == 3
    assert num_cut(new, "k1") == num_cut(new, "k2") == 0
    # What the cut takes off in expectation is at most the reference's share of such tokens.
    policy, reference = (x.log_softmax(0) for x in torch.tensor([[0.0, -9.0], [0.0, -2.0]]))
    plain = float((policy.exp() * (policy - reference)).sum())
    cut = estimate(policy[None], reference[None], mask[:, :2], "k3")
    missing = plain - float((policy.exp() * cut).sum())
    assert 0 < missing <= float(reference.exp()[1])


@pytest.mark.detail(17)
def test_an_unknown_estimator_is_an_error_and_not_k3() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"kl\.estimator \(=k4\) must be one of k1, k2, k3"):
        estimate(torch.zeros(1, 1), torch.zeros(1, 1), mask, "k4")


@pytest.mark.detail(17)
def test_k1_and_k3_are_unbiased_and_k3_has_less_variance() -> None:
    policy, reference = distributions()
    truth = float((policy.exp() * (policy - reference)).sum())
    tokens = sampled(policy, 200_000)
    mask = torch.ones(1, len(tokens), dtype=torch.bool)
    pair = policy[tokens][None], reference[tokens][None], mask
    one, two, three = (estimate(*pair, kind) for kind in ("k1", "k2", "k3"))
    for unbiased in (one, three):
        error = float(unbiased.std()) / math.sqrt(len(tokens))
        assert abs(float(unbiased.mean()) - truth) < 4 * error
    assert abs(float(two.mean()) - truth) > 10 * float(two.std()) / math.sqrt(len(tokens))
    assert float(three.var()) < float(one.var())
    assert float(three.min()) >= 0


@pytest.mark.detail(18)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_loss_has_the_estimators_value_and_the_gradient_of_the_kl(estimator: str) -> None:
    """Summed over every token at its probability, so no sampling error is left."""
    logits = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logits.requires_grad_()
    _, reference = distributions(4)
    policy = logits.log_softmax(0)
    (analytic,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)

    policy, mask = logits.log_softmax(0), torch.ones(1, 6, dtype=torch.bool)
    losses = kl_loss(policy[None], reference[None], mask, estimator)[0]
    assert torch.equal(losses, estimate(policy[None], reference[None], mask, estimator)[0])
    (found,) = torch.autograd.grad((policy.exp().detach() * losses).sum(), logits)
    assert torch.allclose(found, analytic, atol=1e-12)

    # Straight through the other two the gradient would be another one.
    policy = logits.log_softmax(0)
    for naive in ("k1", "k3"):
        plain = estimate(policy[None], reference[None], mask, naive)[0]
        weighted = (policy.exp().detach() * plain).sum()
        (wrong,) = torch.autograd.grad(weighted, logits, retain_graph=True)
        assert not torch.allclose(wrong, analytic, atol=1e-2)


@pytest.mark.detail(18)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("moved", [0.0, 0.5, 1.0])
def test_once_the_policy_has_moved_off_the_samples_the_gradient_is_still_the_kls(
    moved: float, estimator: str
) -> None:
    """Tokens are those of the policy before `moved`; all six are enumerated, none is sampled."""
    logits = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    old = logits.log_softmax(0)
    step = torch.randn(6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    logits = (logits + moved * step).requires_grad_()
    _, reference = distributions(4)
    policy = logits.log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    (analytic,) = torch.autograd.grad(exact, logits, retain_graph=True)

    ratio, mask = (policy - old).exp().detach(), torch.ones(1, 6, dtype=torch.bool)
    row = policy[None], reference[None], mask, estimator
    weighted = (old.exp() * kl_loss(*row, ratio[None])[0]).sum()
    (found,) = torch.autograd.grad(weighted, logits, retain_graph=True)
    assert torch.allclose(found, analytic, atol=1e-12)
    if estimator != "k2":  # k2 is no estimate of the KL, only its gradient is
        assert float(weighted.detach()) == pytest.approx(float(exact.detach()), abs=1e-12)
    (unweighted,) = torch.autograd.grad((old.exp() * kl_loss(*row)[0]).sum(), logits)
    assert torch.allclose(unweighted, analytic, atol=1e-2) == (moved == 0.0)


@pytest.mark.detail(19)
@pytest.mark.parametrize("horizon", [1, 100, 3200])
def test_a_horizon_below_a_fifth_of_the_batch_is_refused(horizon: int) -> None:
    """A KL of 0 would multiply the coefficient by 1 - 0.2 * 16000 / horizon, which is below 0."""
    assert next_kl_coefficient(1.0, 0.0, 1.0, horizon, 16_000) <= 0
    with pytest.raises(
        ConfigError, match=r"ppo.kl.horizon \(=\d+ episodes\) must be above a fifth"
    ):
        PPOConfig(batch_size=16_000, kl=KLConfig(target=1.0, horizon=horizon))
    PPOConfig(batch_size=16_000, kl=KLConfig(horizon=horizon))  # without a target nobody reads it
    PPOConfig(batch_size=16_000, kl=KLConfig(target=1.0, horizon=3201))
    assert next_kl_coefficient(1.0, 0.0, 1.0, 3201, 16_000) > 0


@pytest.mark.detail(19)
def test_the_adaptive_coefficient_by_hand() -> None:
    # 256 episodes, horizon 1,000, target 6: an error is worth 0.256 of itself, at most 0.2 * 0.256.
    # KL 6.6: error 0.1 -> 1.0256.  KL 60: error cut to 0.2 -> 1.0512.  KL 0: cut to -0.2 -> 0.9488.
    coef, found = 1.0, []
    for kl in (6.6, 60.0, 0.0):
        coef = next_kl_coefficient(coef, kl, 6.0, 1_000, 256)
        found.append(coef)
    assert found == pytest.approx([1.0256, 1.0256 * 1.0512, 1.0256 * 1.0512 * 0.9488])
    assert next_kl_coefficient(0.3, 60.0, None, 1_000, 256) == 0.3
