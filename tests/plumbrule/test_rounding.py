"""Equal numbers never become signal: every place that divides by a deviation or a range."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from plumbrule.rounding import ULPS, is_rounding, precision_of
from rag.index.protocol import Hits
from rag.index.ranking import scaled
from rlhf.masked import whiten
from rlhf.ppo.advantages import group_advantages
from rlhf.ppo.measures.metrics import explained_variance
from rlhf.ppo.replay import _correlation
from rlhf.reward_model.losses import normalisation
from rlhf.rewards.transforms import standardise

SCALES = [10.0**k for k in range(-8, 9)]
DTYPES = [torch.float32, torch.float64]


def whitened(x: torch.Tensor) -> torch.Tensor:
    return whiten(x[:, None], torch.ones(len(x), 1, dtype=torch.bool))[:, 0]


def grpo(x: torch.Tensor) -> torch.Tensor:
    return group_advantages(x, len(x), "grpo")


def float32_summed_in_float64(x: torch.Tensor) -> torch.Tensor:
    """As the stage has it: returns are float64 sums of rewards in their own precision."""
    return group_advantages(x.double(), len(x), "reinforce_baseline", precision_of(x.dtype))


STANDARDISED: list[Callable[[torch.Tensor], torch.Tensor]] = [
    standardise,
    whitened,
    grpo,
    float32_summed_in_float64,
]


def nearly(value: float, dtype: torch.dtype) -> torch.Tensor:
    """Twelve numbers that should all be `value` and are up to two units in the last place off."""
    exact = torch.full((12,), value, dtype=dtype)
    steps = torch.tensor([0, 1, -1, 2, 0, -2, 1, 0, 0, -1, 2, -2], dtype=dtype)
    return exact * (1 + steps * torch.finfo(dtype).eps)


@pytest.mark.detail(24)
@pytest.mark.parametrize("dtype", DTYPES, ids=precision_of)
@pytest.mark.parametrize("standardised", STANDARDISED, ids=lambda f: f.__name__)
def test_constants_and_rounding_give_exactly_0_at_every_scale(
    standardised: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    for scale in SCALES:
        for sign in (1.0, -1.0):
            for x in (
                torch.full((3,), 0.1 * sign * scale, dtype=dtype),
                nearly(sign * scale, dtype),
            ):
                assert not standardised(x).any(), (scale, sign)
    assert not standardised(torch.zeros(3, dtype=dtype)).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=precision_of)
def test_a_real_spread_has_deviation_1_at_every_scale(dtype: torch.dtype) -> None:
    # 1, 2, 6 times anything: mean 3, population variance 14 / 3, root 2.160247.
    for scale in SCALES:
        x = torch.tensor([1.0, 2.0, 6.0], dtype=dtype) * scale
        assert standardise(x).tolist() == pytest.approx([-0.925820, -0.462910, 1.388730], rel=1e-5)
        assert standardise(x).dtype == dtype
    # Small beside a large mean, yet a thousand times what rounding makes of it.
    offset = 1000 * ULPS * torch.finfo(dtype).eps
    x = 1 + offset * torch.tensor([1.0, 2.0, 6.0], dtype=dtype)
    assert standardise(x).tolist() == pytest.approx([-0.925820, -0.462910, 1.388730], rel=1e-2)
    # rel: offset itself is only known to a thousandth, 1 / (1000 * 16) of it per unit


def test_whitening_rewards_that_are_one_number_keeps_it() -> None:
    x = nearly(1e8, torch.float32)[:, None]
    kept = whiten(x, torch.ones(12, 1, dtype=torch.bool), shift_mean=False)
    assert kept.flatten().tolist() == pytest.approx([1e8] * 12, rel=1e-6)
    assert len(set(kept.flatten().tolist())) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=precision_of)
def test_scores_that_are_one_number_can_not_be_normalised(dtype: torch.dtype) -> None:
    for scale in SCALES:
        with pytest.raises(ValueError, match="must differ"):
            normalisation(nearly(scale, dtype))
        mean, std = normalisation(torch.tensor([1.0, 3.0], dtype=dtype) * scale)
        assert (mean, std) == (pytest.approx(2 * scale), pytest.approx(scale))


@pytest.mark.parametrize("dtype", DTYPES, ids=precision_of)
def test_meters_of_what_does_not_vary(dtype: torch.dtype) -> None:
    mask = torch.ones(12, 1, dtype=torch.bool)
    for scale in SCALES:
        returns = nearly(scale, dtype)[:, None]
        assert explained_variance(torch.zeros_like(returns), returns, mask) == 0.0
        column = returns[:, 0].numpy()
        assert math.isnan(_correlation(column, np.arange(12.0)))
        assert _correlation(scale * np.arange(12.0), np.arange(12.0)) == pytest.approx(1.0)
    alike = (np.float32(0.7) + np.float32(6e-8) * (np.arange(12) % 2)).astype(np.float32)
    assert math.isnan(_correlation(alike.astype(np.float64), np.arange(12.0), "float32"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_passages_that_score_alike_are_not_spread_over_0_to_1(dtype: type) -> None:
    for scale in SCALES:
        scores = np.sort(nearly(scale, getattr(torch, dtype.__name__)).numpy())[::-1]
        alike = scaled(Hits(np.arange(12), scores, float(scores[-1])))
        assert alike.tolist() == [1.0] * 12
        apart = np.array([4.0, 3.0, 2.0], dtype=dtype) * dtype(scale)
        assert scaled(Hits(np.arange(3), apart, float(apart[-1]))) == pytest.approx([1.0, 0.5, 0.0])


def test_a_spread_that_is_no_number_is_not_rounding() -> None:
    assert is_rounding(0.0, 0.0, "float64")
    assert not is_rounding(math.nan, 1.0, "float64")
    assert precision_of(torch.float32) == precision_of(np.dtype("float32")) == "float32"
