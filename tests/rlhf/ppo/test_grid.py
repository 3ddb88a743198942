"""A whole PPO step against the plain-float one of `ppo_reference.py`, over a grid of options.

Steps 3 and 4 are compared number by number. The gradient of the losses is compared through the
model: the reference gives the slope of the loss at each token, and only the Jacobian of the
log-probs and values by the weights is torch's.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import ppo_reference as reference
import pytest
import torch
from worlds import ppo as world
from worlds.ppo import add_gradients

from rlhf.ppo.config import KLConfig, PPOConfig
from rlhf.ppo.kl import kl_weights
from rlhf.ppo.objective import shape
from rlhf.ppo.optimisation.learner import Learner, trainable
from rlhf.ppo.rollout.evaluation import Evaluation, action_logprobs, evaluate, state_values
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.trajectory import rows_for_model
from rlhf.ppo.step import SUMS, divisors_of
from rlhf.ppo.update_settings import shaping_settings

ROWS, GROUP, COEF = 8, 4, 0.3
KL = [("k1", "reward"), ("k2", "reward"), ("k3", "reward"), ("k1", "loss"), ("k3", "loss")]
GAE: list[dict[str, Any]] = [
    {"advantage": "gae", "score_at": at, "whiten_advantages": white}
    for at, white in itertools.product(("last", "after"), (True, False))
]
GROUPS: list[dict[str, Any]] = [
    {"advantage": kind, "samples_per_prompt": GROUP}
    for kind in ("rloo", "grpo", "reinforce_baseline")
]
CASES = [
    {
        **base,
        "kl": KLConfig(coef=COEF, estimator=estimator, where=where),
        "whiten_rewards": white,
        "dual_clip": dual,
        "score_clip": clip,
        "importance_cap": cap,
    }
    for base, (estimator, where), (white, dual, clip, cap) in itertools.product(
        (*GAE, *GROUPS),
        KL,
        ((False, None, None, None), (True, 1.1, 0.8, None), (False, 1.1, None, 1.05)),
    )
]


def name_of(case: dict[str, Any]) -> str:
    kl = case["kl"]
    return "-".join(
        str(x)
        for x in (
            case["advantage"],
            case.get("score_at", ""),
            f"{kl.estimator}_in_{kl.where}",
            *(f"{k}={v}" for k, v in case.items() if v and k.endswith(("rewards", "clip", "cap"))),
        )
        if x
    )


def raw(config: PPOConfig, learner: Learner) -> tuple[Rollout, Evaluation]:
    """Random tokens with gaps, and random columns that differ from what the models say."""
    rollout = world.recorded(learner, seed=5, rows=ROWS)
    trajectory = rollout.trajectory
    if config.score_at == "after":
        lengths = [len(r) for r in trajectory.responses]
        acts = torch.nn.functional.pad(trajectory.action_mask, (0, 1))
        steps = acts.clone()
        steps[range(ROWS), lengths] = True
        trajectory = replace(trajectory, action_mask=acts, step_mask=steps)
    trajectory = replace(trajectory, finished=torch.arange(ROWS) % 3 != 0)
    draw = torch.Generator().manual_seed(11)

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(
            trajectory.action_mask.shape, generator=draw, dtype=torch.float64
        )

    seen = now(replace(trajectory), learner)
    old = seen.logprobs + noise(0.4)
    trajectory = replace(trajectory, rollout_logprobs=old + noise(0.2))
    seen = Evaluation(old, old + noise(0.5), seen.values + noise(0.4), seen.entropy)
    return rollout._replace(trajectory=trajectory), seen


def now(trajectory: Any, learner: Learner) -> Evaluation:
    return evaluate(
        trajectory,
        learner.policy,
        learner.policy,
        learner.value_model,
        temperature=1.0,
        precision="float32",
        micro_batch_size=3,
    )


@pytest.mark.detail(15)
@pytest.mark.detail(16)
@pytest.mark.detail(17)
@pytest.mark.detail(18)
@pytest.mark.detail(23)
@pytest.mark.detail(29)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_step_equals_the_reference(case: dict[str, Any]) -> None:
    config = world.config(batch_size=ROWS, **case)
    learner = world.learner_of(config)
    rollout, outputs = raw(config, learner)
    trajectory = rollout.trajectory
    mask, steps = trajectory.action_mask.tolist(), trajectory.step_mask.tolist()
    terms = {"rm": torch.linspace(-1.5, 1.5, ROWS, dtype=torch.float64)[torch.randperm(ROWS)]}
    in_reward, in_loss = (COEF, 0.0) if config.kl.where == "reward" else (0.0, COEF)
    assert kl_weights(COEF, config.kl.where) == (in_reward, in_loss)
    shaped = shape(trajectory, outputs, terms, shaping_settings(config, in_reward))
    old, ref = outputs.logprobs.tolist(), outputs.ref_logprobs.tolist()
    values = outputs.values.tolist()

    # Rewards
    kl = config.kl
    rewards = []
    for i in range(ROWS):
        score = float(terms["rm"][i])
        if config.score_clip is not None:
            score = max(-config.score_clip, min(config.score_clip, score))
        score -= 0.0 if bool(trajectory.finished[i]) else config.missing_eos_penalty
        row = [
            -in_reward * reference.kl_estimate(o, r, kl.estimator) if acts else 0.0
            for o, r, acts in zip(old[i], ref[i], mask[i], strict=True)
        ]
        row[max(j for j, step in enumerate(steps[i]) if step)] += score
        rewards.append(row)
    if config.whiten_rewards:
        rewards = reference.whitened(rewards, steps, shift_mean=False)
    close(shaped.rewards, rewards)

    # Advantages and returns
    if config.has_value_model:
        both = [(rewards[i], values[i], steps[i], config.gamma, config.lam) for i in range(ROWS)]
        advantages = [reference.advantages(*row) for row in both]
        close(shaped.returns, [reference.returns(*row) for row in both])
        if config.whiten_advantages:
            advantages = reference.whitened(advantages, mask)
    else:
        totals = [sum(reference.actions(r, m)) for r, m in zip(rewards, mask, strict=True)]
        each = reference.group_baseline(totals, GROUP, config.advantage)
        advantages = [[a] * len(m) for a, m in zip(each, mask, strict=True)]
        if config.advantage == "reinforce_baseline":
            advantages = reference.whitened(advantages, mask)
    advantages = [
        [a if acts else 0.0 for a, acts in zip(row, m, strict=True)]
        for row, m in zip(advantages, mask, strict=True)
    ]
    close(shaped.advantages, advantages)

    # Losses and slopes
    order = sorted(range(ROWS), key=lambda i: -trajectory.num_tokens[i])
    found, _ = add_gradients(learner, shaped, order, config, ROWS, in_loss)
    means = dict(zip(SUMS, (found / divisors_of(trajectory, order)).tolist(), strict=True))
    gradients = {n: gradient(model) for n, model in learner.models.items()}
    read = now(trajectory, learner)
    new, estimates = read.logprobs.tolist(), read.values.tolist()
    num_tokens, num_steps = sum(map(sum, mask)), sum(map(sum, steps))
    policy_slopes, value_slopes, losses, kls, value_losses = [], [], [], [], []
    for i in range(ROWS):
        policy_row, value_row = [], []
        for j, acts in enumerate(mask[i]):
            weight = 1.0
            if config.importance_cap is not None and acts:
                gap = old[i][j] - float(trajectory.rollout_logprobs[i, j])
                weight = min(reference.math.exp(gap), config.importance_cap)

            def loss(n: float, i: int = i, j: int = j, weight: float = weight) -> float:
                a = advantages[i][j]
                (one,) = reference.policy_loss([n], [old[i][j]], [a], [True], 0.2, config.dual_clip)
                return weight * one

            def of_value(v: float, i: int = i, j: int = j) -> float:
                target = float(shaped.returns[i, j])
                return reference.value_loss([v], [values[i][j]], [target], [True], 0.2)[0]

            n, r, v = new[i][j], ref[i][j], estimates[i][j]
            # The KL in the loss is that of the policy now, and the token one of the old policy. Its
            # slope is k2's, whatever the estimator: n - r.
            moved = weight * reference.math.exp(n - old[i][j]) if acts else 0.0
            if acts:
                losses.append(loss(n))
                kls.append(moved * reference.kl_estimate(n, r, kl.estimator))
            slope = reference.slope(loss, n) + in_loss * moved * (n - r)
            policy_row.append(slope if acts else 0.0)
            value_row.append(reference.slope(of_value, v) if steps[i][j] else 0.0)
            if steps[i][j]:
                value_losses.append(of_value(v))
        policy_slopes.append(policy_row)
        value_slopes.append(value_row)
    assert means["policy loss"] == pytest.approx(sum(losses) / num_tokens, rel=1e-9)
    assert means["kl loss"] == pytest.approx(sum(kls) / num_tokens, rel=1e-9)
    expected = through(learner, trajectory, policy_slopes, value_slopes, num_tokens, num_steps)
    assert torch.allclose(gradients["policy"], expected["policy"], rtol=1e-6, atol=1e-9)
    if config.has_value_model:
        assert means["value loss"] == pytest.approx(sum(value_losses) / num_steps, rel=1e-9)
        scaled = config.vf_coef * expected["value model"]
        assert torch.allclose(gradients["value model"], scaled, rtol=1e-6, atol=1e-9)


def close(found: torch.Tensor, rows: list[list[float]]) -> None:
    assert torch.allclose(found, torch.tensor(rows, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trainable(model)]
    )


def through(
    learner: Learner,
    trajectory: Any,
    policy_slopes: list[list[float]],
    value_slopes: list[list[float]],
    num_tokens: int,
    num_steps: int,
) -> dict[str, torch.Tensor]:
    """Return the gradients of the weights, given those of log-probs and values."""
    inputs = rows_for_model(trajectory, range(ROWS), learner.policy.pad_id)
    width = inputs.columns.shape[1]
    outputs = {"policy": action_logprobs(learner.policy.model, inputs, 1.0)}
    slopes = {"policy": torch.tensor(policy_slopes, dtype=torch.float64)[:, :width] / num_tokens}
    if learner.value_model is not None:
        outputs["value model"] = state_values(learner.value_model, inputs)
        slopes["value model"] = (
            torch.tensor(value_slopes, dtype=torch.float64)[:, :width] / num_steps
        )
    found = {}
    for name, model in learner.models.items():
        parts = torch.autograd.grad(
            outputs[name],
            trainable(model),
            slopes[name],
            allow_unused=True,
        )
        found[name] = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(trainable(model), parts, strict=True)
            ]
        )
    return found
