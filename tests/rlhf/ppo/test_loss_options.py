"""Options of the policy's loss, by hand: GSPO, CISPO, clip-higher, aggregation, bounded weights,
the entropy bonus and its target, lambda by length, the overlong penalty.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import ppo as world

from plumbrule.errors import ConfigError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.advantages import AdvantageInputs, from_values, length_adaptive_lam
from rlhf.ppo.config import EntropyConfig, PPOConfig
from rlhf.ppo.losses import importance_weights, policy_loss
from rlhf.ppo.optimisation.aggregation import loss_divisor, row_weights
from rlhf.ppo.optimisation.entropy import entropy_weight, next_entropy_coefficient
from rlhf.ppo.rollout.evaluation import action_scores
from rlhf.ppo.rollout.trajectory import rows_for_model
from rlhf.ppo.stage import run
from rlhf.ppo.step import add_gradients
from rlhf.ppo.update_settings import loss_settings
from rlhf.rewards.transforms import penalise_overlong


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss.sum(), of)
    return found


@pytest.mark.detail(55)
def test_the_upper_clip_may_be_wider_than_the_lower() -> None:
    # eps 0.2 below and 0.5 above, ratios 1.4, 1.6, 0.7, advantage 1, 1, -1:
    #   r=1.4: below 1.5, kept: -1.4, gradient -1.4.  r=1.6: -1.5, clipped.
    #   A=-1 r=0.7: max(0.7, 0.8) = 0.8, clipped: the lower bound is still 0.2.
    old = rows([-1.0, -1.0, -1.0])
    new = (old + rows([1.4, 1.6, 0.7]).log()).requires_grad_()
    mask = torch.ones(1, 3, dtype=torch.bool)
    got = policy_loss(new, old, rows([1.0, 1.0, -1.0]), mask, 0.2, cliprange_high=0.5)
    assert got.loss.tolist()[0] == pytest.approx([-1.4, -1.5, 0.8])
    assert got.clipped.tolist()[0] == [False, True, True]
    assert gradient(got.loss, new).tolist()[0] == pytest.approx([-1.4, 0.0, 0.0])


@pytest.mark.detail(27)
@pytest.mark.option("ppo.policy_loss", "gspo")
def test_gspo_by_hand() -> None:
    # Row 1: ratios 2 and 1/2 and, masked, 9: the response's is (2 * 1/2)^(1/2) = 1, not clipped.
    # Row 2: ratios 2 and 2: the response's is 2, clipped at 1.2 for A = 1; kept for A = -1.
    old = torch.full((3, 3), -1.0, dtype=torch.float64)
    ratios = rows([2.0, 0.5, 9.0], [2.0, 2.0, 9.0], [2.0, 2.0, 9.0])
    new = (old + ratios.log()).requires_grad_()
    mask = torch.tensor([[True, True, False]] * 3)
    advantages = rows([1.0, 3.0, 5.0], [1.0, 1.0, 5.0], [-1.0, -1.0, 5.0])
    got = policy_loss(new, old, advantages, mask, 0.2, kind="gspo")
    assert torch.allclose(got.loss, rows([-1.0, -3.0, 0.0], [-1.2, -1.2, 0.0], [2.0, 2.0, 0.0]))
    assert got.clipped.tolist() == [[False] * 3, [True, True, False], [False] * 3]
    # d/dlogp of -A s pi / sg(pi) is -A s, at the token itself.
    expected = rows([-1.0, -3.0, 0.0], [0.0, 0.0, 0.0], [2.0, 2.0, 0.0])
    assert torch.allclose(gradient(got.loss, new), expected)
    assert got.ratio[0].tolist() == pytest.approx([2.0, 0.5, 1.0])  # measured by token all the same


@pytest.mark.detail(27)
@pytest.mark.option("ppo.policy_loss", "cispo")
def test_cispo_by_hand() -> None:
    # -A clip(r, 0.8, 1.3) log pi: ratios 1.5, 0.5, 1.1 with A = 2, 1, -1 and log pi as they are.
    old = rows([-1.0, -1.0, -1.0])
    new = (old + rows([1.5, 0.5, 1.1]).log()).requires_grad_()
    mask = torch.ones(1, 3, dtype=torch.bool)
    got = policy_loss(new, old, rows([2.0, 1.0, -1.0]), mask, 0.2, kind="cispo", cliprange_high=0.3)
    logp = [math.log(r) - 1.0 for r in (1.5, 0.5, 1.1)]
    expected = [-2.0 * 1.3 * logp[0], -0.8 * logp[1], 1.1 * logp[2]]
    assert got.loss.tolist()[0] == pytest.approx(expected)
    assert got.clipped.tolist()[0] == [True, True, False]
    # Every token keeps a gradient, -A times its weight, the clipped ones too.
    assert gradient(got.loss, new).tolist()[0] == pytest.approx([-2.6, -0.8, 1.1])


@pytest.mark.detail(56)
def test_aggregation_by_hand() -> None:
    lengths, kept = torch.tensor([4, 1, 2]), torch.tensor([True, True, False])
    losses = torch.tensor([1.0, 6.0, 100.0], dtype=torch.float64)  # of each token of a row

    def total(kind: str, keep: torch.Tensor) -> float:
        weights = row_weights(lengths, keep, kind)
        return float((weights * losses * lengths).sum()) / loss_divisor(lengths, keep, kind, 8)

    everything = torch.ones(3, dtype=torch.bool)
    assert total("token", everything) == pytest.approx((4 * 1 + 6 + 200) / 7)
    assert total("sequence", everything) == pytest.approx((1 + 6 + 100) / 3)
    assert total("constant", everything) == pytest.approx((4 * 1 + 6 + 200) / (3 * 8))
    assert total("token", kept) == pytest.approx((4 * 1 + 6) / 5)
    assert total("sequence", kept) == pytest.approx((1 + 6) / 2)
    assert total("constant", kept) == pytest.approx((4 * 1 + 6) / (3 * 8))
    nothing = ~everything
    assert all(total(kind, nothing) == 0.0 for kind in ("token", "sequence", "constant"))
    with pytest.raises(ValueError, match="token, sequence, constant"):
        row_weights(lengths, kept, "mean")


@pytest.mark.detail(56)
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_no_aggregation_depends_on_micro_batches(aggregation: str) -> None:
    found = []
    for micro_batch_size in (16, 3):
        config = world.config(loss_aggregation=aggregation, mask_unfinished=True)
        learner = world.learner_of(config)
        rollout = world.recorded(learner)
        some = torch.arange(16) % 3 != 0
        rollout = rollout._replace(trajectory=replace(rollout.trajectory, finished=some))
        settings = loss_settings(config, 0.0)
        add_gradients(learner, rollout, range(16), settings, micro_batch_size)
        found.append(torch.cat([p.grad.flatten() for p in learner.policy.model.parameters()]))
    assert float(found[0].abs().max()) > 1e-4
    assert torch.allclose(*found, rtol=1e-4, atol=1e-7)


@pytest.mark.detail(58)
def test_bounded_importance_weights_by_hand() -> None:
    # Ratios 3, 1/2 and (row 2) 1/2, 1/2; the last position is masked.
    log_ratio = rows([3.0, 0.5, 7.0], [0.5, 0.5, 7.0]).log()
    mask = torch.tensor([[True, True, False]] * 2)
    old = torch.full((2, 3), -2.0, dtype=torch.float64)

    def weigh(**bounds: Any) -> tuple[list[list[float]], list[list[bool]]]:
        found = importance_weights(old + log_ratio, old, mask, **bounds)
        return found.weights.tolist(), found.outside.tolist()

    near = pytest.approx
    weights, outside = weigh(cap=2.0, floor=0.6)
    assert weights == [near([2.0, 0.6, 1.0]), near([0.6, 0.6, 1.0])]
    assert outside == [[True, True, False], [True, True, False]]
    weights, _ = weigh(cap=2.0, floor=0.6, outside="mask")
    assert weights == [near([0.0, 0.0, 1.0]), near([0.0, 0.0, 1.0])]
    # Products: 3/2 and 1/4. Geometric means: sqrt(3/2) and 1/2.
    weights, outside = weigh(cap=1.4, floor=0.3, level="sequence")
    assert weights == [near([1.4, 1.4, 1.0]), near([0.3, 0.3, 1.0])]
    assert outside == [[True, True, False], [True, True, False]]
    weights, outside = weigh(cap=1.4, floor=0.3, level="geometric", outside="mask")
    assert weights == [near([math.sqrt(1.5)] * 2 + [1.0]), near([0.5, 0.5, 1.0])]
    assert not any(map(any, outside))
    with pytest.raises(ValueError, match="token, sequence, geometric"):
        weigh(cap=2.0, level="batch")


@pytest.mark.detail(57)
def test_the_entropy_bonus_adds_the_gradient_of_the_mean_entropy() -> None:
    grads = {}
    for coef in (0.0, 0.5):
        config = world.config(entropy=EntropyConfig(coef=coef))
        learner = world.learner_of(config)
        rollout = world.recorded(learner)
        add_gradients(learner, rollout, range(16), loss_settings(config, 0.0), 5)
        parameters = list(learner.policy.model.parameters())
        grads[coef] = torch.cat([p.grad.flatten() for p in parameters])
    inputs = rows_for_model(rollout.trajectory, range(16), learner.policy.pad_id)
    # The bonus again, from the model's own softmax.
    output = learner.policy.model(inputs.tokens, attention_mask=inputs.real_mask.long()).logits
    logp = output.log_softmax(-1)
    before = (inputs.columns - 1).clamp(min=0)
    entropies = -(logp.exp() * logp).sum(-1).gather(1, before)[inputs.action_mask]
    mean = entropies.mean()
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(mean, parameters)])
    assert torch.allclose(grads[0.0] - grads[0.5], 0.5 * wanted, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        _, seen = action_scores(learner.policy.model, inputs, 1.0)
    assert float(seen[inputs.action_mask].mean()) == pytest.approx(mean.item(), rel=1e-5)


@pytest.mark.detail(57)
def test_the_entropys_coefficient_follows_its_target() -> None:
    assert entropy_weight(0.1, 2.0, None) == 0.1
    assert entropy_weight(0.1, 2.0, 1.5) == 0.0  # sure enough of itself it is not
    assert entropy_weight(0.1, 1.5, 1.5) == entropy_weight(0.1, 1.0, 1.5) == 0.1
    assert next_entropy_coefficient(0.1, 1.0, None, 0.02) == 0.1
    assert next_entropy_coefficient(0.1, 1.0, 1.5, 0.02) == pytest.approx(0.12)
    assert next_entropy_coefficient(0.1, 2.0, 1.5, 0.02) == pytest.approx(0.08)
    assert next_entropy_coefficient(0.01, 2.0, 1.5, 0.02) == 0.0
    assert next_entropy_coefficient(0.1, 1.5, 1.5, 0.02) == 0.1


@pytest.mark.detail(59)
def test_lambdas_of_policy_and_values_by_hand() -> None:
    # Two steps, rewards 0 and 1, values 0.5 and 0.25, gamma 1: deltas -0.25 and 0.75.
    mask = torch.ones(1, 2, dtype=torch.bool)
    given = AdvantageInputs(rows([0.0, 1.0]), rows([0.5, 0.25]), mask, mask, 1, 1.0, 0.4)
    plain = from_values(given)
    assert plain.advantages.tolist()[0] == pytest.approx([-0.25 + 0.4 * 0.75, 0.75])
    assert plain.returns.tolist()[0] == pytest.approx([0.55, 1.0])
    apart = from_values(given._replace(lam_value=1.0))
    assert torch.equal(apart.advantages, plain.advantages)
    assert apart.returns.tolist()[0] == pytest.approx([1.0, 1.0])  # all that is paid from here on
    # alpha 2 and two steps: 1 - 1 / 4 = 0.75; the returns keep lam.
    longer = from_values(given._replace(lam_alpha=2.0))
    assert longer.advantages.tolist()[0] == pytest.approx([-0.25 + 0.75 * 0.75, 0.75])
    assert torch.equal(longer.returns, plain.returns)


@pytest.mark.detail(59)
def test_lambda_grows_with_the_response() -> None:
    lengths = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    assert length_adaptive_lam(lengths, 0.5).tolist() == pytest.approx([0.0, 0.0, 0.5])
    assert length_adaptive_lam(lengths, 0.05).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.detail(60)
def test_the_overlong_penalty_by_hand() -> None:
    # Limit 10, buffer 4, penalty 2: nothing up to 6 tokens, half at 8, all at 10.
    lengths = torch.tensor([1, 6, 7, 8, 10])
    scores = torch.ones(5, dtype=torch.float64)
    found = penalise_overlong(scores, lengths, 10, 4, 2.0)
    assert found.tolist() == pytest.approx([1.0, 1.0, 0.5, 0.0, -1.0])
    assert torch.equal(penalise_overlong(scores, lengths, 10, 0, 2.0), scores)


@pytest.mark.detail(61)
def test_unfinished_responses_leave_the_policys_loss_alone() -> None:
    """Their advantages may be anything; the values' loss still reads them."""
    grads = []
    for wild in (False, True):
        config = world.config(mask_unfinished=True)
        learner = world.learner_of(config)
        rollout = world.recorded(learner)
        done = torch.arange(16) % 4 != 0
        advantages, returns = rollout.advantages, rollout.returns
        if wild:
            advantages = torch.where(done[:, None], advantages, 1e3)
            returns = torch.where(done[:, None], returns, 1e1)
        rollout = rollout._replace(
            trajectory=replace(rollout.trajectory, finished=done),
            advantages=advantages,
            returns=returns,
        )
        add_gradients(learner, rollout, range(16), loss_settings(config, 0.1), 16)
        grads.append(
            [
                torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
                for model in learner.models.values()
            ]
        )
    assert torch.equal(grads[0][0], grads[1][0])
    assert not torch.allclose(grads[0][1], grads[1][1])


def test_all_of_them_train_and_are_logged(tmp_path: Path) -> None:
    config = world.config(
        total_episodes=48,
        policy_loss="gspo",
        loss_aggregation="sequence",
        cliprange_high=0.3,
        entropy=EntropyConfig(coef=0.01, target=50.0, step=0.002),
        lam_value=1.0,
        lam_alpha=0.5,
        overlong_buffer=2,
        importance_cap=2.0,
        importance_floor=0.5,
        importance_level="geometric",
        importance_outside="mask",
        num_samples=0,
    )
    out = tmp_path / "out"
    out.mkdir()
    run(config, world.build(tmp_path), world.runtime(), out, FileTracker(out), generate)
    logged = read_metrics(out)
    coefs = [row["objective/entropy_coef"] for row in logged]
    assert coefs == pytest.approx([0.01 + 0.002 * i for i in range(len(logged))])
    assert all(row["loss/entropy_avg"] > 0 for row in logged)
    assert all(row["policy/importance_outside_avg"] == 0 for row in logged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_aggregation": "mean"}, r"ppo.loss_aggregation .*constant, sequence, token"),
        ({"cliprange_high": 0.0}, "ppo.cliprange_high"),
        ({"importance_floor": 0.5}, r"ppo.importance_cap \(=None\) must be set"),
        ({"importance_level": "sequence"}, r"ppo.importance_cap \(=None\) must be set"),
        ({"importance_cap": 2.0, "importance_floor": 3.0}, "ppo.importance_floor"),
        ({"importance_cap": 2.0, "importance_outside": "drop"}, "ppo.importance_outside"),
        ({"lam_value": 1.5}, "ppo.lam_value"),
        ({"lam_alpha": 0.0}, "ppo.lam_alpha"),
        ({"advantage": "rloo", "samples_per_prompt": 2, "lam_alpha": 1.0}, "be gae"),
        ({"overlong_buffer": 9, "sampling": SamplingConfig(max_new_tokens=8)}, "overlong_buffer"),
        ({"overlong_penalty": -1.0}, "ppo.overlong_penalty"),
    ],
)
def test_settings_that_can_not_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PPOConfig(**changes)


@pytest.mark.parametrize("changes", [{"coef": -1.0}, {"target": -0.5}, {"step": math.inf}])
def test_entropy_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.entropy\."):
        EntropyConfig(**changes)
