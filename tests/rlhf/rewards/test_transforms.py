"""Scores to token rewards: hand values, the loop, whitening and the missing-EOS penalty."""

from __future__ import annotations

import math

import ppo_reference as reference
import pytest
import torch

from rlhf.masked import masked_mean, masked_var, row_sums, whiten
from rlhf.ppo.advantages import gae
from rlhf.ppo.kl import k1
from rlhf.rewards.transforms import (
    clip_scores,
    last_step,
    penalise_unfinished,
    shape_rewards,
    weighted_sum,
)

GAPS = torch.tensor(
    [[True, True, False, True, False], [True, False, False, False, False], [True] * 5]
)


def random_rows(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.detail(15)
def test_three_tokens_by_hand() -> None:
    # KL 0.5, -1.0, 2.0 nats at 0.1 per nat: -0.05, +0.1, -0.2; the score 3 joins the last: 2.8.
    kl = torch.tensor([[0.5, -1.0, 2.0]])
    ones = torch.ones(1, 3, dtype=torch.bool)
    rewards = shape_rewards(torch.tensor([3.0]), 0.1 * kl, ones, ones)
    assert rewards.tolist()[0] == pytest.approx([-0.05, 0.1, 2.8])


@pytest.mark.detail(15)
def test_rewards_sum_to_score_less_coefficient_times_kl() -> None:
    scores, new, ref = random_rows((1, 3), 0)[0], random_rows((3, 5), 1), random_rows((3, 5), 2)
    kl = k1(new, ref, GAPS)
    rewards = shape_rewards(scores, 0.3 * kl, GAPS, GAPS)
    expected = scores - 0.3 * row_sums(kl, GAPS)
    assert torch.allclose(row_sums(rewards, GAPS), expected, rtol=0, atol=1e-14)
    for row in range(3):
        slow = reference.token_rewards(
            float(scores[row]), new[row].tolist(), ref[row].tolist(), GAPS[row].tolist(), 0.3
        )
        assert rewards[row].tolist() == pytest.approx(slow, abs=1e-14)


@pytest.mark.detail(16)
def test_score_lands_on_the_last_step_even_before_foreign_text() -> None:
    assert last_step(GAPS).tolist() == [3, 0, 4]
    scores = torch.tensor([1.0, 2.0, 3.0])
    rewards = shape_rewards(scores, torch.full((3, 5), math.nan), GAPS, GAPS)
    # NaN stays NaN at action tokens; at foreign slots nothing may show.
    assert torch.equal(rewards.isnan(), GAPS)
    rewards = shape_rewards(scores, torch.zeros(3, 5), GAPS, GAPS)
    assert rewards.tolist() == [[0, 0, 0, 1.0, 0], [2.0, 0, 0, 0, 0], [0, 0, 0, 0, 3.0]]


def test_a_response_without_an_action_is_refused() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ValueError, match="a step in every row"):
        shape_rewards(torch.zeros(2), torch.zeros(2, 2), mask, mask)


@pytest.mark.detail(16)
def test_a_score_that_comes_after_the_response_is_discounted_once_more() -> None:
    """One response of two tokens: returns and advantages by hand, in both positions."""
    # Score 1, no KL, gamma 1, lambda 0.5; values 0.2, 0.4 and, behind the response, 0.6.
    # last: delta_2 = 1 - 0.4 = 0.6, delta_1 = 0.4 - 0.2 = 0.2; A_2 = 0.6, A_1 = 0.2 + 0.3 = 0.5.
    # after: delta_3 = 1 - 0.6 = 0.4, delta_2 = 0.6 - 0.4 = 0.2, delta_1 = 0.2;
    #        A_3 = 0.4, A_2 = 0.2 + 0.2 = 0.4, A_1 = 0.2 + 0.2 = 0.4; returns A + V.
    acts = torch.tensor([[True, True, False]])
    values = torch.tensor([[0.2, 0.4, 0.6]], dtype=torch.float64)
    score, zeros = torch.ones(1, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    for steps, advantages, returns in (
        (acts, [0.5, 0.6, 0.0], [0.7, 1.0, 0.0]),
        (torch.ones_like(acts), [0.4, 0.4, 0.4], [0.6, 0.8, 1.0]),
    ):
        found = gae(shape_rewards(score, zeros, acts, steps), values, steps, 1.0, 0.5)
        assert found.advantages.tolist()[0] == pytest.approx(advantages)
        assert found.returns.tolist()[0] == pytest.approx(returns)


@pytest.mark.detail(21)
def test_scores_are_clipped_before_the_penalty_and_without_the_kl() -> None:
    scores = clip_scores(torch.tensor([7.0, -9.0, 2.0]), 5.0)
    assert scores.tolist() == [5.0, -5.0, 2.0]
    assert clip_scores(torch.tensor([7.0]), None).tolist() == [7.0]
    # Unfinished: -5 - 1; then a KL of 40 at 0.1 per nat comes off in full.
    total = penalise_unfinished(scores, torch.tensor([True, False, True]), 1.0)
    ones = torch.ones(3, 1, dtype=torch.bool)
    assert shape_rewards(total, torch.full((3, 1), 4.0), ones, ones).flatten().tolist() == [
        1.0,
        -10.0,
        -2.0,
    ]


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


@pytest.mark.detail(22)
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
    with pytest.raises(ValueError, match="at least one position"):
        masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool))
