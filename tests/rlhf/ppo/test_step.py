"""One update on recorded rollouts: gradients, step counts, clipping, masked slots, NaN, rates."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import ppo_reference as reference
import pytest
import torch
from worlds import ppo as world
from worlds.ppo import add_gradients, learning_rates, make_learner, ppo_step

from plumbrule.errors import ConfigError, TrainingError
from rlhf.ppo import step as module
from rlhf.ppo.measures.metrics import objective_metrics
from rlhf.ppo.optimisation.gradients import clip_gradients
from rlhf.ppo.optimisation.learner import set_learning_rates, trainable
from rlhf.ppo.rollout.evaluation import evaluate
from rlhf.ppo.rollout.parquet import TOKEN_COLUMNS, Rollout, kept_on_failure, read
from rlhf.ppo.step import SUMS
from rlhf.ppo.value_model import value_from_policy
from rlhf.rewards.config import RewardConfig, RewardTermConfig


def gradient(*models: torch.nn.Module) -> torch.Tensor:
    grads = [p.grad for model in models for p in trainable(model)]
    return torch.cat([g.flatten() for g in grads if g is not None])


def gradient_of(rollout: Rollout, rows: list[int], micro_batch_size: int) -> torch.Tensor:
    config = world.config()
    learner = world.learner_of(config)
    add_gradients(learner, rollout, rows, config, micro_batch_size)
    return gradient(*learner.models.values())


@pytest.mark.detail(27)
def test_the_gradient_does_not_depend_on_the_cut_into_micro_batches() -> None:
    rollout = world.recorded(world.learner_of(world.config()))
    rows = list(range(16))
    whole = gradient_of(rollout, rows, 16)
    assert float(whole.norm()) > 0.1
    for size in (1, 2, 3, 4, 8):
        assert torch.allclose(gradient_of(rollout, rows, size), whole, rtol=1e-9, atol=1e-13)
    turned = rows[::-1]
    assert torch.allclose(gradient_of(rollout, turned, 4), whole, rtol=1e-9, atol=1e-13)
    # Means over micro-batches, which most code takes, would give another one.
    parts = [gradient_of(rollout, rows[i : i + 4], 4) for i in range(0, 16, 4)]
    assert not torch.allclose(torch.stack(parts).mean(0), whole, rtol=1e-3)


@pytest.mark.detail(27)
@pytest.mark.detail(30)
def test_loss_and_gradient_equal_the_reference() -> None:
    """Losses from the float loop; the gradient from finite differences of that loss."""
    config = world.config()
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    rows = [3, 0, 7, 12]

    def loss() -> tuple[float, float]:
        seen = world.evaluated(learner, rollout.trajectory, micro_batch_size=3)
        pg, vf = [], []
        for i in rows:
            mask = rollout.trajectory.action_mask[i].tolist()
            old, new = rollout.logprobs[i].tolist(), seen.logprobs[i].tolist()
            pg += reference.policy_loss(new, old, rollout.advantages[i].tolist(), mask, 0.2)
            old, new = rollout.values[i].tolist(), seen.values[i].tolist()
            vf += reference.value_loss(new, old, rollout.returns[i].tolist(), mask, 0.2)
        return sum(pg) / len(pg), sum(vf) / len(vf)

    sums, _ = add_gradients(learner, rollout, rows, config, 2)
    num_tokens = int(rollout.trajectory.action_mask[rows].sum())
    found = dict(zip(SUMS, (sums / num_tokens).tolist(), strict=True))
    assert [found["policy loss"], found["value loss"]] == pytest.approx(loss(), rel=1e-9)
    for model, share in ((learner.policy.model, 1.0), (learner.value_model, config.vf_coef)):
        parameter = trainable(model)[2]
        assert parameter.grad is not None
        place = parameter.grad.abs().argmax()
        step = 1e-6
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * step
                sides.append(loss()[0 if share == 1.0 else 1])
                parameter.view(-1)[place] -= sign * step
        slope = share * (sides[0] - sides[1]) / (2 * step)
        assert float(parameter.grad.flatten()[place]) == pytest.approx(slope, rel=1e-5)


@pytest.mark.detail(26)
@pytest.mark.detail(32)
@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_foreign_segments_may_hold_anything(garbage: float) -> None:
    """Losses, gradients and metrics do not see what stands in slots that are no action token."""
    config = world.config()
    clean = world.recorded(world.learner_of(config))
    mask = clean.trajectory.action_mask
    assert not mask[:, [1, 3, 4]].any()
    dirty = clean._replace(
        **{name: torch.where(mask, getattr(clean, name), garbage) for name in TOKEN_COLUMNS},
        trajectory=replace(
            clean.trajectory,
            rollout_logprobs=torch.where(mask, clean.trajectory.rollout_logprobs, garbage),
        ),
    )
    of = RewardConfig()
    assert objective_metrics(dirty, of) == objective_metrics(clean, of)
    one, other = world.learner_of(config), world.learner_of(config)
    assert ppo_step(one, clean, config, 1, 4) == ppo_step(other, dirty, config, 1, 4)
    assert torch.equal(world.weights(one), world.weights(other))


@pytest.mark.detail(32)
def test_metrics_do_not_see_padding() -> None:
    config = world.config()
    rollout = world.recorded(world.learner_of(config))
    pad = torch.nn.functional.pad
    wide = rollout._replace(
        **{name: pad(getattr(rollout, name), (0, 5), value=9.0) for name in TOKEN_COLUMNS},
        trajectory=replace(
            rollout.trajectory,
            action_mask=pad(rollout.trajectory.action_mask, (0, 5)),
            step_mask=pad(rollout.trajectory.step_mask, (0, 5)),
            rollout_logprobs=pad(rollout.trajectory.rollout_logprobs, (0, 5), value=9.0),
        ),
    )
    narrow_metrics = objective_metrics(rollout, RewardConfig())
    wide_metrics = objective_metrics(wide, RewardConfig())
    assert wide_metrics == pytest.approx(narrow_metrics, rel=1e-12)
    one, other = world.learner_of(config), world.learner_of(config)
    assert ppo_step(one, rollout, config, 1, 4) == ppo_step(other, wide, config, 1, 4)


@pytest.mark.detail(31)
@pytest.mark.detail(32)
@pytest.mark.detail(51)
def test_metrics_by_hand() -> None:
    learner = world.learner_of(world.config())
    rollout = world.recorded(learner)
    mask = rollout.trajectory.action_mask
    metrics = objective_metrics(rollout, RewardConfig([RewardTermConfig("rm", 2.0)]))
    tokens = [(i, j) for i in range(16) for j in range(mask.shape[1]) if mask[i, j]]
    kl = sum(float(rollout.kl[i, j]) for i, j in tokens) / 16
    score = float(rollout.scores.mean())
    assert metrics["objective/kl"] == pytest.approx(kl)
    assert metrics["objective/non_score_reward"] == pytest.approx(-0.1 * kl)
    assert metrics["objective/rlhf_reward"] == pytest.approx(score - 0.1 * kl)
    entropy = sum(float(rollout.entropy[i, j]) for i, j in tokens) / len(tokens)
    assert metrics["objective/entropy"] == pytest.approx(entropy)
    assert metrics["val/response_length_tokens"] == pytest.approx(len(tokens) / 16)
    assert metrics["reward/rm"] == pytest.approx(2.0 * metrics["reward/rm_raw"])
    assert metrics["val/num_eos_tokens"] == 16.0
    returns = [float(rollout.returns[i, j]) for i, j in tokens]
    errors = [r - float(rollout.values[i, j]) for r, (i, j) in zip(returns, tokens, strict=True)]
    expected = 1 - float(np.var(errors) / np.var(returns))
    assert metrics["val/explained_variance"] == pytest.approx(expected)


@pytest.mark.detail(31)
def test_there_is_no_entropy_bonus() -> None:
    """With no advantage and no value error nothing is learned, whatever the entropy."""
    config = world.config()
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    still = rollout._replace(advantages=torch.zeros_like(rollout.advantages))
    add_gradients(learner, still, list(range(16)), config, 8)
    assert not any(p.grad.any() for p in trainable(learner.policy.model) if p.grad is not None)


@pytest.mark.detail(39)
@pytest.mark.parametrize(("epochs", "mini_batches"), [(1, 1), (1, 4), (4, 1), (3, 2)])
@pytest.mark.parametrize("micro_batch_size", [1, 4, 64])
def test_steps_per_rollout(epochs: int, mini_batches: int, micro_batch_size: int) -> None:
    """num_ppo_epochs * num_mini_batches, counted at the optimizer; TRL 1.10 took 1 or 4."""
    config = world.config(num_ppo_epochs=epochs, num_mini_batches=mini_batches)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    taken = []
    learner.optimizer.register_step_post_hook(lambda *_: taken.append(1))
    stats = ppo_step(learner, rollout, config, 1, micro_batch_size)
    assert len(taken) == stats.num_steps == epochs * mini_batches


@pytest.mark.detail(39)
def test_every_epoch_covers_every_row_once_in_an_order_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = world.config(num_ppo_epochs=3, num_mini_batches=4)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    seen: list[list[int]] = []
    plain = module.add_gradients
    monkeypatch.setattr(
        module,
        "add_gradients",
        lambda learner, rollout, rows, *rest, **more: (
            seen.append(rows),
            plain(learner, rollout, rows, *rest, **more),
        )[1],
    )
    ppo_step(learner, rollout, config, 1, 8)
    epochs = [[row for rows in seen[i : i + 4] for row in rows] for i in (0, 4, 8)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(16))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    first = list(seen)
    seen.clear()
    ppo_step(world.learner_of(config), rollout, config, 1, 8)
    assert seen == first
    ppo_step(world.learner_of(config), rollout, config, 2, 8)
    assert seen[12:] != first


@pytest.mark.detail(27)
@pytest.mark.detail(35)
def test_the_first_ratio_is_one_and_the_loss_minus_the_mean_advantage() -> None:
    """Also in training mode: dropout is off for good."""
    config = world.config(num_ppo_epochs=1, num_mini_batches=1)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    learner.policy.model.train()
    seen = world.evaluated(learner, rollout.trajectory, micro_batch_size=5)
    stats = ppo_step(learner, rollout._replace(logprobs=seen.logprobs), config, 1, 8)
    assert stats.first_ratio_error < 1e-12
    assert stats.ratio == pytest.approx(1.0, abs=1e-12)
    mean = rollout.advantages[rollout.trajectory.action_mask].mean()
    assert stats.policy_loss == pytest.approx(-float(mean), rel=1e-9)
    still = (stats.clipfrac, stats.ratio_var, stats.approxkl)
    assert still == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


@pytest.mark.detail(32)
def test_stats_by_the_loop() -> None:
    config = world.config(num_ppo_epochs=1, num_mini_batches=1)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    mask = rollout.trajectory.action_mask
    new = evaluate(
        rollout.trajectory,
        learner.policy,
        learner.policy,
        learner.value_model,
        temperature=1.0,
        precision="float32",
        micro_batch_size=16,
    ).logprobs
    log_ratios = (new - rollout.logprobs)[mask].tolist()
    advantages = rollout.advantages[mask].tolist()
    ratios = np.exp(log_ratios)
    stats = ppo_step(learner, rollout, config, 1, 4)
    assert stats.approxkl == pytest.approx(0.5 * np.mean(np.square(log_ratios)), rel=1e-9)
    assert stats.ratio == pytest.approx(np.mean(ratios), rel=1e-9)
    assert stats.ratio_var == pytest.approx(np.var(ratios), rel=1e-9)
    clipped = [
        (r > 1.2 and a > 0) or (r < 0.8 and a < 0) for r, a in zip(ratios, advantages, strict=True)
    ]
    assert stats.clipfrac == pytest.approx(np.mean(clipped))
    assert 0.05 < stats.clipfrac < 0.95
    assert stats.first_ratio_error == pytest.approx(np.abs(ratios - 1).max(), rel=1e-9)


@pytest.mark.detail(40)
@pytest.mark.parametrize("max_norm", [1e-6, 1e-2, 1e6])
def test_gradient_clipping_acts_on_each_model(max_norm: float) -> None:
    config = world.config(max_grad_norm=max_norm)
    learner = world.learner_of(config)
    add_gradients(learner, world.recorded(learner), list(range(16)), config, 8)

    def lengths() -> list[float]:
        return [float(gradient(m).norm()) for m in learner.models.values()]

    before = lengths()
    norms = clip_gradients(learner.models, max_norm, "here")
    assert list(norms.values()) == pytest.approx(before)
    assert lengths() == pytest.approx([min(norm, max_norm) for norm in before], rel=1e-3)


@pytest.mark.detail(37)
def test_learning_rates_fall_linearly_in_every_group() -> None:
    config = world.config(total_episodes=16 * 10, learning_rate=0.5, value_learning_rate=2.0)
    learner = world.learner_of(config)
    # 10 updates: 1 -> 10/10 of the rate, 6 -> 5/10, 10 -> 1/10
    for update, share in ((1, 1.0), (6, 0.5), (10, 0.1)):
        set_learning_rates(learner.optimizer, learning_rates(config, update))
        rates = [group["lr"] for group in learner.optimizer.param_groups]
        assert rates == pytest.approx([0.5 * share, 2.0 * share])


@pytest.mark.detail(36)
def test_adam_takes_the_configured_epsilon() -> None:
    learner = world.learner_of(world.config(adam_epsilon=1e-3))
    assert {group["eps"] for group in learner.optimizer.param_groups} == {1e-3}
    # First Adam step: lr * g / (|g| + eps), elementwise, after the moments' bias correction.
    config = world.config(
        num_ppo_epochs=1, num_mini_batches=1, adam_epsilon=1e-3, max_grad_norm=1e9
    )
    rollout = world.recorded(learner)
    before = world.weights(learner)
    add_gradients(learner, rollout, list(range(16)), config, 8)
    g = gradient(*learner.models.values())
    ppo_step(learner, rollout, config, 1, 8)
    expected = before - config.learning_rate * g / (g.abs() + 1e-3)
    assert torch.allclose(world.weights(learner), expected, rtol=1e-9, atol=1e-12)


def test_non_finite_loss_is_named_and_the_rollout_kept(tmp_path: Path) -> None:
    config = world.config(num_mini_batches=1)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    before = world.weights(learner)
    rollout.returns[5, 0] = math.inf
    message = r"value loss at update 7, epoch 1, mini-batch 1 .=inf. must be finite"
    with (
        pytest.raises(TrainingError, match=message) as error,
        kept_on_failure(rollout, tmp_path, 7),
    ):
        ppo_step(learner, rollout, config, 7, 8)
    assert torch.equal(world.weights(learner), before)
    kept = tmp_path / "failed-update-00007.parquet"
    assert str(kept) in str(error.value)
    assert math.isinf(float(read(kept, finite=False).returns[5, 0]))


def test_non_finite_gradient_is_named() -> None:
    config = world.config()
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    layer = learner.policy.model.get_parameter("transformer.h.0.mlp.c_fc.weight")
    layer.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(
        TrainingError, match=r"gradient of the policy at update 2, epoch 1, .*h.0.mlp.c_fc"
    ):
        ppo_step(learner, rollout, config, 2, 8)


def test_a_frozen_policy_is_refused() -> None:
    policy = world.tiny_policy()
    value_model = value_from_policy(policy)
    policy.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="trainable parameters"):
        make_learner(policy, value_model, world.config())
