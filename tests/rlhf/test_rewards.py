"""Scores to token rewards: hand values, the loop, whitening and the missing-EOS penalty."""

from __future__ import annotations

import math

import ppo_reference as reference
import pytest
import torch

from rlhf.kl import k1
from rlhf.masked import masked_mean, masked_var, row_sums, whiten
from rlhf.rewards import last_action, penalise_unfinished, shape_rewards, weighted_sum

GAPS = torch.tensor(
    [[True, True, False, True, False], [True, False, False, False, False], [True] * 5]
)


def random_rows(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.detail(15)
def test_three_tokens_by_hand() -> None:
    # KL 0.5, -1.0, 2.0 nats at 0.1 per nat: -0.05, +0.1, -0.2; the score 3 joins the last: 2.8.
    kl = torch.tensor([[0.5, -1.0, 2.0]])
    rewards = shape_rewards(torch.tensor([3.0]), kl, torch.ones(1, 3, dtype=torch.bool), 0.1)
    assert rewards.tolist()[0] == pytest.approx([-0.05, 0.1, 2.8])


@pytest.mark.detail(15)
def test_rewards_sum_to_score_less_coefficient_times_kl() -> None:
    scores, new, ref = random_rows((1, 3), 0)[0], random_rows((3, 5), 1), random_rows((3, 5), 2)
    kl = k1(new, ref, GAPS)
    rewards = shape_rewards(scores, kl, GAPS, 0.3)
    expected = scores - 0.3 * row_sums(kl, GAPS)
    assert torch.allclose(row_sums(rewards, GAPS), expected, rtol=0, atol=1e-14)
    for row in range(3):
        slow = reference.token_rewards(
            float(scores[row]), new[row].tolist(), ref[row].tolist(), GAPS[row].tolist(), 0.3
        )
        assert rewards[row].tolist() == pytest.approx(slow, abs=1e-14)


def test_score_lands_on_the_last_action_even_before_foreign_text() -> None:
    assert last_action(GAPS).tolist() == [3, 0, 4]
    rewards = shape_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.full((3, 5), math.nan), GAPS, 0.0)
    # coef 0 times NaN is NaN at action tokens; at foreign slots nothing may show.
    assert torch.equal(rewards.isnan(), GAPS)
    rewards = shape_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 5), GAPS, 0.5)
    assert rewards.tolist() == [[0, 0, 0, 1.0, 0], [2.0, 0, 0, 0, 0], [0, 0, 0, 0, 3.0]]


def test_a_response_without_an_action_is_refused() -> None:
    with pytest.raises(ValueError, match="an action token in every row"):
        shape_rewards(
            torch.zeros(2), torch.zeros(2, 2), torch.tensor([[True, True], [False, False]]), 0
        )


@pytest.mark.detail(12)
def test_penalty_is_subtracted_once_from_unfinished_responses_only() -> None:
    scores = torch.tensor([2.0, 2.0, -1.0])
    finished = torch.tensor([True, False, False])
    assert penalise_unfinished(scores, finished, 1.5).tolist() == [2.0, 0.5, -2.5]
    assert penalise_unfinished(scores, finished, 0.0).tolist() == scores.tolist()


def test_weighted_sum_by_hand_and_its_names() -> None:
    terms = {"rm": torch.tensor([1.0, -2.0]), "constant": torch.tensor([1.0, 1.0])}
    # 2 * 1 + 0.5 * 1 = 2.5;  2 * -2 + 0.5 * 1 = -3.5
    assert weighted_sum(terms, {"rm": 2.0, "constant": 0.5}).tolist() == [2.5, -3.5]
    assert weighted_sum(terms, {"rm": 1.0}).tolist() == [1.0, -2.0]
    with pytest.raises(ValueError, match="must hold all weights"):
        weighted_sum(terms, {"gold": 1.0})


def test_reward_whitening_keeps_the_mean_and_uses_the_population_variance() -> None:
    # Action tokens 1, 2, 6: mean 3, population variance (4 + 1 + 9) / 3 = 14 / 3, root 2.16025.
    # (1 - 3) / 2.16025 + 3 = 2.07418;  (2 - 3) / ... + 3 = 2.53709;  (6 - 3) / ... + 3 = 4.38873
    rewards = torch.tensor([[1.0, 2.0], [6.0, 50.0]])
    mask = torch.tensor([[True, True], [True, False]])
    white = whiten(rewards, mask, shift_mean=False)
    assert white.flatten().tolist() == pytest.approx([2.07418, 2.53709, 4.38873, 0.0], abs=1e-5)
    assert float(masked_mean(white, mask)) == pytest.approx(3.0, abs=1e-6)
    assert float(masked_var(white, mask)) == pytest.approx(1.0, abs=1e-6)


def test_masked_moments_raise_on_nothing() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool))
