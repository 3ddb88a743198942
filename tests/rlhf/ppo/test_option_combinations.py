"""The options of stage ppo, each on the tiny world: what it changes, and that it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import ppo as world
from worlds.ppo import make_learner, ppo_step

from plumbrule.errors import ConfigError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import Sample, generate
from plumbrule.lm.loading import Policy, load_policy
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.masked import masked_mean
from rlhf.ppo.advantages import group_advantages
from rlhf.ppo.config import EarlyStopConfig, KLConfig, PPOConfig, PTXConfig
from rlhf.ppo.losses import importance_weights, policy_loss
from rlhf.ppo.optimisation.tensorflow_adam import TensorFlowAdam
from rlhf.ppo.optimisation.weight_average import AveragedWeights
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.trajectory import Sampler
from rlhf.ppo.stage import run


def train(
    folder: Path, config: PPOConfig, sampler: Sampler | None = None, **policy: Any
) -> tuple[list[dict[str, Any]], Path, Mapping[str, float]]:
    """Run the stage; return its logged rows, its folder and its headlines."""
    inputs = world.build(folder, **policy)
    out = folder / "out"
    out.mkdir()
    headlines = run(config, inputs, world.runtime(), out, FileTracker(out), sampler)
    return read_metrics(out), out, headlines


def weights_of(folder: Path) -> torch.Tensor:
    return torch.cat([p.flatten() for p in load_policy(folder).model.parameters()])


# KL


@pytest.mark.detail(19)
def test_the_adaptive_coefficient_follows_the_kl_and_is_logged(tmp_path: Path) -> None:
    kl = KLConfig(coef=0.02, target=1e-3, horizon=16)
    rows, _, _ = train(tmp_path, world.config(kl=kl))
    coefs = [row["objective/kl_coef"] for row in rows]
    assert coefs[0] == 0.02
    for row, after in zip(rows, coefs[1:], strict=False):
        error = min(max(row["objective/kl"] / 1e-3 - 1.0, -0.2), 0.2)
        assert after == pytest.approx(row["objective/kl_coef"] * (1 + error))
        taken = row["objective/kl_coef"] * row["objective/kl"]
        assert row["objective/non_score_reward"] == pytest.approx(-taken, abs=1e-9)
    assert coefs[-1] > coefs[0]


@pytest.mark.detail(18)
def test_kl_in_the_loss_leaves_the_reward_alone_and_holds_the_policy(tmp_path: Path) -> None:
    kls = {}
    for coef in (0.0, 30.0):
        folder = tmp_path / str(coef)
        folder.mkdir()
        kl = KLConfig(coef=coef, where="loss", estimator="k3")
        rows, _, _ = train(folder, world.config(kl=kl, total_episodes=64))
        assert {row["objective/non_score_reward"] for row in rows} == {0.0}
        assert rows[-1]["loss/kl_avg"] > 0
        kls[coef] = rows[-1]["objective/kl"]
    assert kls[30.0] < 0.5 * kls[0.0]


# Stopping


def test_an_update_stops_before_the_step_that_would_go_too_far(tmp_path: Path) -> None:
    config = world.config(num_ppo_epochs=4, num_mini_batches=1)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    old = rollout._replace(logprobs=rollout.logprobs)
    free = ppo_step(learner, old, config, 1, 8)
    assert free.num_steps == 4

    limit = EarlyStopConfig(step_kl=free.approxkl / 100)
    held = world.learner_of(config)
    before = world.weights(held)
    stats = ppo_step(held, old, replace(config, early_stop=limit), 1, 8)
    assert stats.num_steps == 0  # recorded rollouts are off-policy from the start
    assert torch.equal(world.weights(held), before)
    assert math.isfinite(stats.policy_loss)

    early_stop = EarlyStopConfig(step_kl=1e-4)
    rows, _, _ = train(
        tmp_path, world.config(num_ppo_epochs=8, early_stop=early_stop, total_episodes=48)
    )
    steps = [row["ppo/optimizer_steps"] for row in rows]
    assert all(0 < taken < 16 for taken in steps)


@pytest.mark.detail(39)
def test_the_limit_is_held_against_the_kl_and_not_twice_it() -> None:
    """Half the mean squared log-ratio of the first mini-batch, a little below and above a limit."""
    config = world.config(num_ppo_epochs=1, num_mini_batches=1)
    rollout = world.recorded(world.learner_of(config))
    kl = ppo_step(world.learner_of(config), rollout, config, 1, 8).approxkl
    assert kl > 0.01
    for limit, taken in ((0.99 * kl, 0), (1.01 * kl, 1), (1.9 * kl, 1)):
        stopping = replace(config, early_stop=EarlyStopConfig(step_kl=limit))
        assert ppo_step(world.learner_of(config), rollout, stopping, 1, 8).num_steps == taken


def test_a_run_ends_after_the_update_whose_kl_is_too_large(tmp_path: Path) -> None:
    free = world.config(kl=KLConfig(coef=0.0), total_episodes=64)
    (tmp_path / "free").mkdir()
    rows, _, _ = train(tmp_path / "free", free)
    limit = rows[2]["objective/kl"] * 0.999
    assert all(row["objective/kl"] < limit for row in rows[:2])
    (tmp_path / "held").mkdir()
    stopping = replace(free, early_stop=EarlyStopConfig(run_kl=limit))
    ended, out, headlines = train(tmp_path / "held", stopping)
    assert len(ended) == 3
    assert headlines["ppo/updates"] == 3
    assert headlines["ppo/episodes"] == 48
    assert "ended after 3 of 4 updates" in (out / "notes.json").read_text()
    # The same command again trains nothing more.
    again = run(
        stopping, world.inputs_in(tmp_path / "held"), world.runtime(), out, FileTracker(out)
    )
    assert again["ppo/updates"] == 3
    assert len(read_metrics(out)) == 3


# Value model


@pytest.mark.detail(50)
def test_during_warm_up_the_value_model_alone_moves() -> None:
    config = world.config(value_warmup_updates=2)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    for update, moves in ((1, False), (2, False), (3, True)):
        before = [p.detach().clone() for p in learner.policy.model.parameters()]
        value = learner.value_model.head.weight.detach().clone()  # type: ignore[union-attr]
        stats = ppo_step(learner, rollout, config, update, 8)
        same = [torch.equal(a, b) for a, b in zip(before, learner.policy.model.parameters())]  # noqa: B905
        assert all(same) is not moves
        assert not torch.equal(value, learner.value_model.head.weight)  # type: ignore[union-attr]
        assert (stats.grad_norm > 0) is moves
        assert stats.num_steps == 4
    state = learner.optimizer.state[next(learner.policy.model.parameters())]
    assert int(state["step"]) == 4  # Adam's moments of the policy began with its first step


@pytest.mark.detail(16)
def test_a_score_after_the_response_has_a_value_of_its_own(tmp_path: Path) -> None:
    _, out, _ = train(tmp_path, world.config(score_at="after", total_episodes=64), spread=0.5)
    rollout = parquet.read(out / "rollouts" / "update-00004.parquet")
    trajectory = rollout.trajectory
    ends = torch.tensor([len(r) for r in trajectory.responses])
    rows = torch.arange(len(ends))
    assert torch.equal(trajectory.step_mask.sum(1), ends + 1)
    assert torch.equal(trajectory.action_mask.sum(1), ends)
    assert torch.allclose(rollout.rewards[rows, ends], rollout.scores.float())
    assert torch.allclose(rollout.returns[rows, ends], rollout.scores.float(), atol=1e-6)
    assert float(rollout.values[rows, ends].abs().min()) > 0  # learnt by now
    assert not rollout.advantages[rows, ends].any()


# Advantages without a value model


@pytest.mark.option("ppo.advantage", "rloo", "grpo", "reinforce_baseline")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Returns 1, 2, 6: mean 3, sample deviation sqrt((4 + 1 + 9) / 2) = 2.645751.
        ("rloo", [1 - 4, 2 - 3.5, 6 - 1.5]),
        ("grpo", [-2 / 2.645851, -1 / 2.645851, 3 / 2.645851]),
        ("reinforce_baseline", [-2, -1, 3]),
    ],
)
def test_group_baselines_by_hand(kind: str, expected: list[float]) -> None:
    returns = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    found = group_advantages(returns, 3, kind)
    assert found.tolist() == pytest.approx([*expected, 0, 0, 0])
    with pytest.raises(ValueError, match="whole groups"):
        group_advantages(returns, 4, kind)


@pytest.mark.parametrize("kind", ["rloo", "grpo", "reinforce_baseline"])
def test_without_a_value_model_none_is_read_trained_or_kept(kind: str, tmp_path: Path) -> None:
    config = world.config(advantage=kind, samples_per_prompt=4, total_episodes=32)
    rows, out, _ = train(tmp_path, config)
    assert not (out / "value").exists()
    assert {row["loss/value_avg"] for row in rows} == {0.0}
    rollout = parquet.read(out / "rollouts" / "update-00001.parquet")
    ids = list(rollout.trajectory.prompt_ids)
    assert all(len(set(ids[i : i + 4])) == 1 for i in range(0, 16, 4))
    assert not rollout.values.any()
    mask = rollout.trajectory.action_mask
    for row, acts in zip(rollout.advantages, mask, strict=True):
        assert len(set(row[acts].tolist())) == 1


# Optimizer, averages, demonstrations


@pytest.mark.detail(36)
def test_tensorflows_adam_equals_its_formula() -> None:
    """Three steps on one number, epsilon large enough to tell the two Adams apart."""
    gradients, rate, eps = [0.3, -0.1, 0.02], 0.1, 1e-2
    x = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = TensorFlowAdam([x], lr=rate, eps=eps)
    expected, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        x.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        scale = math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        expected -= rate * scale * m / (math.sqrt(v) + eps)
        assert x.item() == pytest.approx(expected, rel=1e-12)
    plain = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    torch_adam = torch.optim.Adam([plain], lr=rate, eps=eps)
    plain.grad = torch.tensor(0.3, dtype=torch.float64)
    torch_adam.step()
    assert abs(plain.item() - 1.0) > 3 * rate * 0.3**2  # a full step; TensorFlow's first is shorter
    assert isinstance(
        make_learner(world.tiny_policy(), None, world.config(adam="tf")).optimizer, TensorFlowAdam
    )


@pytest.mark.detail(49)
def test_the_published_policy_is_the_average_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a_u = d a_(u-1) + (1 - d) w_u, by hand from the weights after each update."""
    after: list[torch.Tensor] = []
    add = AveragedWeights.add

    def noted(self: AveragedWeights, model: torch.nn.Module) -> None:
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]).clone())
        add(self, model)

    monkeypatch.setattr(AveragedWeights, "add", noted)
    _, out, _ = train(tmp_path, world.config(total_episodes=48, ema_decay=0.6))
    expected = weights_of(tmp_path / "sft" / "model")
    for weights in after:
        expected = 0.6 * expected + 0.4 * weights
    assert len(after) == 3
    assert torch.allclose(weights_of(out / "model"), expected, atol=1e-7)
    assert not torch.allclose(weights_of(out / "model"), after[-1], atol=1e-4)


@pytest.mark.detail(48)
def test_demonstrations_are_mixed_in(tmp_path: Path) -> None:
    """They come to be likelier than without, and the loss that is logged is their mean."""
    losses = {}
    for coef in (0.0, 5.0):
        folder = tmp_path / str(coef)
        folder.mkdir()
        rows, _, _ = train(folder, world.config(ptx=PTXConfig(coef=coef, batch_size=8)))
        losses[coef] = [row["loss/ptx_avg"] for row in rows]
    assert set(losses[0.0]) == {0.0}
    assert losses[5.0][0] == pytest.approx(math.log(16), rel=0.1)  # 16 tokens, untrained
    assert losses[5.0][-1] < losses[5.0][0] - 0.2


def test_demonstrations_without_an_input_are_refused(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    del inputs["demonstrations"]
    config = world.config(ptx=PTXConfig(coef=1.0))
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=r"ppo.ptx.coef .=1.0. must be 0 without"):
        run(config, inputs, world.runtime(), tmp_path / "out", FileTracker(tmp_path / "out"))


# Losses


@pytest.mark.detail(29)
def test_dual_clip_by_hand() -> None:
    # A = -1, eps 0.2, c = 3. Ratio 5: -A r = 5 is bound to 3, no gradient. Ratio 2: 2 < 3, free.
    # A = 1 has no such bound.
    old = torch.zeros(1, 3)
    new = torch.tensor([[math.log(5.0), math.log(2.0), math.log(5.0)]], requires_grad=True)
    advantages, mask = torch.tensor([[-1.0, -1.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    found = policy_loss(new, old, advantages, mask, 0.2, dual_clip=3.0)
    found.loss.sum().backward()
    assert found.loss.tolist()[0] == pytest.approx([3.0, 2.0, -1.2])
    assert new.grad is not None
    assert new.grad.tolist()[0] == pytest.approx([0.0, 2.0, 0.0])
    assert found.clipped.tolist() == [[True, False, True]]


@pytest.mark.detail(28)
def test_a_log_ratio_beyond_twenty_is_cut_and_counted() -> None:
    new = torch.tensor([[90.0, -90.0, 1.0]], requires_grad=True)
    ones = torch.ones(1, 3)
    found = policy_loss(new, torch.zeros(1, 3), -ones, ones.bool(), 0.2)
    found.loss.sum().backward()
    assert torch.isfinite(found.loss).all()
    assert found.ratio.tolist()[0] == pytest.approx([math.exp(20), math.exp(-20), math.e])
    assert found.cut.tolist() == [[True, True, False]]
    assert new.grad is not None
    assert new.grad.tolist()[0][:2] == [0.0, 0.0]


# Samplers


class Perturbed:
    """A sampler that is not quite the policy: it samples at another temperature."""

    def __init__(self, temperature: float):
        self.temperature = temperature

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: SamplingConfig,
        keys: Sequence[int],
    ) -> list[Sample]:
        warmer = replace(sampling, temperature=self.temperature)
        return generate(policy, prompts, sampling=warmer, keys=keys)


@pytest.mark.detail(52)
def test_a_perturbed_sampler_is_metered_and_weighed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = world.config(total_episodes=16, importance_cap=2.0, num_ppo_epochs=1)
    rows, out, _ = train(tmp_path, config, Perturbed(2.0), spread=0.5)
    assert rows[0]["val/logprob_gap_max"] > 0.1
    assert "temperature" in caplog.text
    rollout = parquet.read(out / "rollouts" / "update-00001.parquet")
    mask = rollout.trajectory.action_mask
    sampled = rollout.trajectory.rollout_logprobs
    weights = importance_weights(rollout.logprobs, sampled, mask, 2.0).weights
    assert float(weights.max()) <= 2.0
    by_hand = torch.minimum((rollout.logprobs - sampled).exp(), torch.tensor(2.0))
    assert torch.allclose(weights[mask], by_hand[mask])
    assert (weights[~mask] == 1).all()


@pytest.mark.detail(52)
def test_importance_weights_make_a_perturbed_sampler_right() -> None:
    """The weighted mean over mu's tokens is that over pi's; unweighted it is not."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(8, generator=draw, dtype=torch.float64)
    pi, mu = logits.log_softmax(0), (logits / 2).log_softmax(0)
    payoff = torch.randn(8, generator=draw, dtype=torch.float64)
    truth = float((pi.exp() * payoff).sum())
    tokens = torch.multinomial(mu.exp(), 200_000, replacement=True, generator=draw)
    mask = torch.ones(1, len(tokens), dtype=torch.bool)
    weights = importance_weights(pi[tokens][None], mu[tokens][None], mask, 100.0).weights
    weighted = weights * payoff[tokens]
    error = float(weighted.std()) / math.sqrt(len(tokens))
    assert abs(float(masked_mean(weighted, mask)) - truth) < 4 * error
    assert abs(float(payoff[tokens].mean()) - truth) > 10 * error


@pytest.mark.detail(10)
def test_the_samplers_own_log_probs_may_be_the_old_ones(tmp_path: Path) -> None:
    rows, out, _ = train(tmp_path, world.config(old_logprobs="rollout", total_episodes=16))
    rollout = parquet.read(out / "rollouts" / "update-00001.parquet")
    assert torch.equal(rollout.logprobs, rollout.trajectory.rollout_logprobs)
    assert 0 < rows[0]["val/first_ratio_error"] < 1e-4  # float32: two passes, one policy


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "rloo"}, r"samples_per_prompt .=1. must be at least 2"),
        ({"advantage": "ppo"}, "ppo.advantage"),
        ({"samples_per_prompt": 3}, r"ppo.batch_size .=16 episodes. must divide"),
        (
            {"advantage": "grpo", "samples_per_prompt": 2, "score_at": "after"},
            "need values",
        ),
        ({"importance_cap": 2.0, "old_logprobs": "rollout"}, "ppo.importance_cap"),
        ({"value_warmup_updates": 6}, "be fewer than the run's 6"),
        ({"dual_clip": 0.9}, "ppo.dual_clip"),
        ({"ema_decay": 1.5}, "ppo.ema_decay"),
        ({"adam": "sgd"}, "ppo.adam"),
        ({"score_at": "first"}, "ppo.score_at"),
    ],
)
def test_options_that_exclude_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world.config(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"estimator": "k4"}, {"where": "both"}, {"target": 1.0, "coef": 0.0}, {"horizon": 0}],
)
def test_kl_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.kl"):
        KLConfig(**changes)
