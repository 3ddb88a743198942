"""GAE and whitening: hand values, the O(t^2) reference, closed forms, gaps, padding, order."""

from __future__ import annotations

import math

import ppo_reference as reference
import pytest
import torch

from rlhf.masked import masked_mean, masked_var, whiten
from rlhf.ppo.advantages import gae


def case(seed: int, rows: int = 6, slots: int = 9) -> tuple[torch.Tensor, ...]:
    """Random rewards, values and masks with gaps, (rows, slots), first slot always an action."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn((rows, slots), generator=generator, dtype=torch.float64)
    values = torch.randn((rows, slots), generator=generator, dtype=torch.float64)
    mask = torch.rand((rows, slots), generator=generator) < 0.6
    mask[:, 0] = True
    return rewards, values, mask


@pytest.mark.detail(23)
def test_two_tokens_by_hand() -> None:
    # gamma 0.9, lambda 0.5; rewards 1, 2; values 0.5, 1.0; value after the last token 0.
    # delta_2 = 2 + 0 - 1.0 = 1.0;  delta_1 = 1 + 0.9 * 1.0 - 0.5 = 1.4
    # A_2 = 1.0;  A_1 = 1.4 + 0.9 * 0.5 * 1.0 = 1.85;  returns 1.85 + 0.5 = 2.35 and 1.0 + 1.0 = 2.0
    ones = torch.ones(1, 2, dtype=torch.bool)
    got = gae(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.0]]), ones, 0.9, 0.5)
    assert got.advantages.tolist()[0] == pytest.approx([1.85, 1.0])
    assert got.returns.tolist()[0] == pytest.approx([2.35, 2.0])


@pytest.mark.detail(23)
@pytest.mark.option("ppo.advantage", "gae")
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7), (1.0, 0.0), (1.0, 1.0)])
def test_equals_the_double_sum(gamma: float, lam: float) -> None:
    rewards, values, mask = case(0)
    got = gae(rewards, values, mask, gamma, lam)
    for row in range(len(rewards)):
        slow = (rewards[row].tolist(), values[row].tolist(), mask[row].tolist(), gamma, lam)
        assert got.advantages[row].tolist() == pytest.approx(reference.advantages(*slow), abs=1e-12)
        assert got.returns[row].tolist() == pytest.approx(reference.returns(*slow), abs=1e-12)


@pytest.mark.detail(23)
def test_closed_forms() -> None:
    """Lambda 1: return-to-go less value. Lambda 0: one-step error. Both with value 0 at the end."""
    rewards, values, _ = case(1)
    mask = torch.ones_like(rewards, dtype=torch.bool)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(gae(rewards, values, mask, 1.0, 1.0).advantages, to_go - values)
    assert torch.allclose(gae(rewards, values, mask, 1.0, 1.0).returns, to_go)
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    errors = rewards + after - values
    assert torch.allclose(gae(rewards, values, mask, 1.0, 0.0).advantages, errors)


@pytest.mark.detail(23)
def test_true_values_have_zero_expected_advantage() -> None:
    """With the exact value function of a coin-flip process the mean advantage is 0."""
    # Each of 4 tokens pays +1 or -1 with equal chance; the value of the state before token t is the
    # sum of future means, 0. A bonus of 2 at the end makes every value 2 with gamma 1.
    coins = torch.randint(0, 2, (20_000, 4), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    coins[:, -1] += 2.0
    values, mask = torch.full((20_000, 4), 2.0), torch.ones(20_000, 4, dtype=torch.bool)
    advantages = gae(coins, values, mask, 1.0, 0.95).advantages
    # Standard error per column at most sqrt(4 / 20000) = 0.0141
    assert float(advantages.mean(0).abs().max()) < 4 * 0.0141


@pytest.mark.detail(23)
def test_foreign_text_is_skipped_as_if_it_were_not_there() -> None:
    rewards, values, _ = case(2, rows=1, slots=4)
    plain = gae(rewards, values, torch.ones(1, 4, dtype=torch.bool), 0.9, 0.8)
    # The same four actions with two foreign segments (2 and 1 slots) and 3 slots of padding.
    slots = [0, 3, 4, 6]
    gaps = torch.zeros(1, 10, dtype=torch.bool)
    gaps[0, slots] = True
    wide = [torch.full((1, 10), math.nan, dtype=torch.float64) for _ in range(2)]
    for x, narrow in zip(wide, (rewards, values), strict=True):
        x[0, slots] = narrow[0]
    got = gae(wide[0], wide[1], gaps, 0.9, 0.8)
    assert torch.equal(got.advantages[0, slots], plain.advantages[0])
    assert torch.equal(got.returns[0, slots], plain.returns[0])
    assert not got.advantages[~gaps].any()
    assert not got.returns[~gaps].any()


@pytest.mark.detail(23)
def test_rows_do_not_see_padding_or_each_other() -> None:
    rewards, values, mask = case(3)
    whole = gae(rewards, values, mask, 1.0, 0.95)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    turned = gae(rewards[order], values[order], mask[order], 1.0, 0.95)
    assert torch.equal(turned.advantages, whole.advantages[order])
    pad = torch.nn.functional.pad
    padded = gae(
        pad(rewards, (0, 3), value=7.0),
        pad(values, (0, 3), value=math.inf),
        pad(mask, (0, 3)),
        1.0,
        0.95,
    )
    assert torch.equal(padded.advantages[:, :9], whole.advantages)


def test_bad_input_is_refused() -> None:
    rewards, values, mask = case(4)
    with pytest.raises(ValueError, match="one shape"):
        gae(rewards, values[:, :3], mask, 1.0, 0.95)
    mask[2] = False
    with pytest.raises(ValueError, match="an action token in every row"):
        gae(rewards, values, mask, 1.0, 0.95)


@pytest.mark.detail(24)
def test_whitening_by_hand_over_action_tokens_only() -> None:
    # Action tokens 1, 3, 8: mean 4, population variance (9 + 1 + 16) / 3 = 26 / 3, root 2.94392.
    # (1 - 4) / 2.94392 = -1.01905;  (3 - 4) / ... = -0.33968;  (8 - 4) / ... = 1.35873
    x = torch.tensor([[1.0, 100.0, 3.0], [8.0, -100.0, math.nan]])
    mask = torch.tensor([[True, False, True], [True, False, False]])
    white = whiten(x, mask)
    assert white[mask].tolist() == pytest.approx([-1.01905, -0.33968, 1.35873], abs=1e-5)
    assert white[~mask].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.detail(24)
def test_whitened_mean_is_0_and_deviation_1_and_padding_does_not_matter() -> None:
    x, _, mask = case(5)
    white = whiten(x, mask)
    assert float(masked_mean(white, mask)) == pytest.approx(0.0, abs=1e-12)
    assert float(masked_var(white, mask)) == pytest.approx(1.0, abs=1e-7)
    pad = torch.nn.functional.pad
    padded = whiten(pad(x, (0, 4), value=1e9), pad(mask, (0, 4)))
    assert torch.allclose(padded[:, :9], white, rtol=0, atol=1e-14)
    assert not padded[:, 9:].any()
    slow = reference.whitened(x.tolist(), mask.tolist())
    for row in range(len(x)):
        assert white[row].tolist() == pytest.approx(slow[row], abs=1e-12)


def test_whitening_a_constant_gives_zero_and_not_noise() -> None:
    x = torch.full((64, 33), 0.1)
    assert not whiten(x, torch.ones(64, 33, dtype=torch.bool)).any()


@pytest.mark.detail(25)
def test_returns_are_made_before_whitening() -> None:
    rewards, values, mask = case(6)
    advantages, returns = gae(rewards, values, mask, 1.0, 0.95)
    assert torch.allclose(returns[mask], (advantages + values)[mask])
    assert not torch.allclose(returns[mask], (whiten(advantages, mask) + values)[mask], atol=0.1)
