"""Policy and value loss: hand values where clipping binds, gradients, the loop, masked slots."""

from __future__ import annotations

import math

import ppo_reference as reference
import pytest
import torch

from plumbrule.registry import Option
from rlhf.ppo.losses import policy_loss, value_loss
from rlhf.ppo.options import POLICY_LOSSES

ALL = torch.ones(1, 4, dtype=torch.bool)


def case(seed: int, rows: int = 5, slots: int = 7) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    new, old, target = (
        0.4 * torch.randn((rows, slots), generator=generator, dtype=torch.float64) for _ in range(3)
    )
    mask = torch.rand((rows, slots), generator=generator) < 0.6
    mask[:, 0] = True
    return new - 1.0, old - 1.0, target, mask


@pytest.mark.detail(27)
def test_policy_loss_by_hand() -> None:
    # Ratios 1.5, 1.5, 0.5, 0.5 with advantages 2, -2, 2, -2 and eps 0.2:
    #   A=+2 r=1.5: max(-3.0, -2.4) = -2.4  clipped, no gradient
    #   A=-2 r=1.5: max( 3.0,  2.4) =  3.0  kept: d/dlogp = -A r = 3.0
    #   A=+2 r=0.5: max(-1.0, -1.6) = -1.0  kept: d/dlogp = -A r = -1.0
    #   A=-2 r=0.5: max( 1.0,  1.6) =  1.6  clipped, no gradient
    old = torch.full((1, 4), -1.0)
    new = (old + torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log()).requires_grad_()
    got = policy_loss(new, old, torch.tensor([[2.0, -2.0, 2.0, -2.0]]), ALL, 0.2)
    assert got.loss.tolist()[0] == pytest.approx([-2.4, 3.0, -1.0, 1.6])
    assert got.clipped.tolist()[0] == [True, False, False, True]
    assert got.ratio.tolist()[0] == pytest.approx([1.5, 1.5, 0.5, 0.5])
    got.loss.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist()[0] == pytest.approx([0.0, 3.0, -1.0, 0.0])


@pytest.mark.detail(27)
def test_ratio_one_gives_minus_the_mean_advantage_and_the_policy_gradient() -> None:
    new, _, advantages, mask = case(0)
    new.requires_grad_()
    got = policy_loss(new, new.detach(), advantages, mask, 0.2)
    (got.loss.sum() / mask.sum()).backward()
    assert float(got.loss.detach().sum() / mask.sum()) == pytest.approx(
        -float(advantages[mask].mean())
    )
    assert new.grad is not None
    assert torch.allclose(new.grad[mask], -advantages[mask] / mask.sum())


@pytest.mark.detail(27)
@pytest.mark.option("ppo.policy_loss", "clip")
def test_what_a_plug_in_says_of_masked_slots_does_not_count(monkeypatch) -> None:
    everywhere = Option(lambda given: (given.ratio, torch.ones(1, 3)))
    monkeypatch.setitem(POLICY_LOSSES._options, "everywhere", everywhere)
    mask = torch.tensor([[True, False, True]])
    found = policy_loss(*[torch.zeros(1, 3)] * 3, mask, 0.2, kind="everywhere")
    assert found.clipped.dtype == torch.bool
    assert torch.equal(found.clipped, mask)


def test_policy_loss_equals_the_loop() -> None:
    new, old, advantages, mask = case(1)
    got = policy_loss(new, old, advantages, mask, 0.2)
    for i in range(len(new)):
        row = [x[i].tolist() for x in (new, old, advantages, mask)]
        assert got.loss[i][mask[i]].tolist() == pytest.approx(reference.policy_loss(*row, 0.2))
    assert 0 < int(got.clipped.sum()) < int(mask.sum())


@pytest.mark.detail(30)
def test_value_loss_by_hand() -> None:
    # Old value 0, eps 0.2, return 1:
    #   V=0.5: clip 0.2, max((0.5-1)^2, (0.2-1)^2) = 0.64 -> 0.32, clipped: far enough, gradient 0
    #   V=0.1: clip 0.1, both 0.81 -> 0.405, gradient V - R = -0.9
    #   V=-0.5: clip -0.2, max(2.25, 1.44) -> 1.125, gradient V - R = -1.5 (the wrong way)
    #   V=1.0: clip 0.2, max(0, 0.64) -> 0.32, clipped
    values = torch.tensor([[0.5, 0.1, -0.5, 1.0]], requires_grad=True)
    got = value_loss(values, torch.zeros(1, 4), torch.ones(1, 4), ALL, 0.2)
    assert got.loss.tolist()[0] == pytest.approx([0.32, 0.405, 1.125, 0.32])
    assert got.clipped.tolist()[0] == [True, False, False, True]
    got.loss.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist()[0] == pytest.approx([0.0, -0.9, -1.5, 0.0])


@pytest.mark.detail(30)
def test_value_loss_equals_the_loop() -> None:
    new, old, returns, mask = case(2)
    got = value_loss(new, old, returns, mask, 0.2)
    for i in range(len(new)):
        row = [x[i].tolist() for x in (new, old, returns, mask)]
        assert got.loss[i][mask[i]].tolist() == pytest.approx(reference.value_loss(*row, 0.2))


@pytest.mark.detail(26)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_masked_slots_change_neither_loss_nor_gradient(garbage: float) -> None:
    new, old, target, mask = case(3)

    def dirty(x: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, x, garbage)

    for loss in (policy_loss, value_loss):
        clean_input, dirty_input = new.clone().requires_grad_(), dirty(new).requires_grad_()
        clean = loss(clean_input, old, target, mask, 0.2)
        other = loss(dirty_input, dirty(old), dirty(target), mask, 0.2)
        clean.loss.sum().backward()
        other.loss.sum().backward()
        assert clean_input.grad is not None
        assert dirty_input.grad is not None
        assert torch.equal(clean.loss, other.loss)
        assert torch.equal(clean.clipped, other.clipped)
        assert torch.equal(clean_input.grad, dirty_input.grad)
        assert not dirty_input.grad[~mask].any()


@pytest.mark.detail(26)
def test_masked_ratio_is_one_and_masked_loss_zero() -> None:
    new, old, advantages, mask = case(4)
    got = policy_loss(new, old, advantages, mask, 0.2)
    assert set(got.ratio[~mask].tolist()) == {1.0}
    for x in (got.loss, got.log_ratio, got.clipped):
        assert not x[~mask].any()
