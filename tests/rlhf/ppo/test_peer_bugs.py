"""Mistakes that were seen in other PPO code by running it, and that ours must not have.

One test for each, named after whose it is and what it does there; what is tested is our code alone.
They were seen in TRL 1.10 and in torchtune, OpenRLHF, DeepSpeed-Chat and alpaca_farm of that time;
later versions may have mended them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ppo_reference as reference
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM
from worlds import ppo as world
from worlds.ppo import ppo_step
from worlds.trackers import Stopped, StopsAfter

from plumbrule.errors import TrainingError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import make_policy
from plumbrule.lm.randomness import row_key
from plumbrule.protocols import Episode
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.masked import masked_mean, masked_var, whiten
from rlhf.ppo.config import KLConfig, PPOConfig
from rlhf.ppo.kl import kl_weights, next_kl_coefficient
from rlhf.ppo.objective import shape
from rlhf.ppo.optimisation.learner import trainable
from rlhf.ppo.rollout.evaluation import Evaluation, action_logprobs
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.trajectory import rows_for_model
from rlhf.ppo.stage import run
from rlhf.ppo.update_settings import shaping_settings
from rlhf.reward_model.losses import bradley_terry


def shaped(rollout: Rollout, config: PPOConfig) -> Rollout:
    """Steps 3 and 4 on a recorded rollout's raw columns."""
    outputs = Evaluation(rollout.logprobs, rollout.ref_logprobs, rollout.values, rollout.entropy)
    kl = kl_weights(config.kl.coef, config.kl.where)
    settings = shaping_settings(config, kl.in_reward)
    return shape(rollout.trajectory, outputs, rollout.terms, settings)


def recorded(config: PPOConfig) -> Rollout:
    return world.recorded(world.learner_of(config))


# TRL 1.10


@pytest.mark.parametrize("num_mini_batches", [1, 2, 4])
def test_trl_num_mini_batches_has_no_effect(num_mini_batches: int) -> None:
    """One epoch takes as many optimizer steps as there are mini-batches; there it took 1."""
    config = world.config(num_ppo_epochs=1, num_mini_batches=num_mini_batches)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    taken = []
    learner.optimizer.register_step_post_hook(lambda *_: taken.append(1))
    for micro_batch_size in (1, 16):
        taken.clear()
        ppo_step(learner, rollout, config, 1, micro_batch_size)
        assert len(taken) == num_mini_batches


def test_trl_steps_at_every_micro_batch_at_the_end_of_a_pass_over_the_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 prompts in rollouts of 6: every second one ends a pass, and takes no step more.

    Two epochs of one mini-batch are two steps, however many micro-batches they are made of.
    """
    steps = []
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *rest: Any) -> Any:
        steps.append(1)
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    inputs = world.build(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    config = world.config(total_episodes=24, batch_size=6, num_mini_batches=1)
    run(config, inputs, world.runtime(micro_batch_size=2), out, FileTracker(out))
    assert len(steps) == 4 * 2
    assert [row["ppo/optimizer_steps"] for row in read_metrics(out)] == [2.0] * 4


def test_trl_max_grad_norm_is_ignored() -> None:
    """The gradients that the optimizer sees are no longer than it; before, they were much longer.

    Each of the two models has its own limit.
    """
    config = world.config(max_grad_norm=1e-6)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    lengths: list[float] = []

    def measure(*_: object) -> None:
        for model in learner.models.values():
            grads = [p.grad.flatten() for p in trainable(model) if p.grad is not None]
            lengths.append(float(torch.cat(grads).norm()))

    learner.optimizer.register_step_pre_hook(measure)
    stats = ppo_step(learner, rollout, config, 1, 8)
    assert min(stats.grad_norm, stats.value_grad_norm) > 1e-2
    assert len(lengths) == 2 * 4
    assert max(lengths) == pytest.approx(1e-6, rel=1e-3)


def test_trl_a_run_can_not_be_resumed_and_saves_the_policy_only(tmp_path: Path) -> None:
    """Stopped in update 5 of 6, with checkpoints at 2 and 4: the next call takes updates 5 and 6.

    It goes on from the value model's weights and from the optimizer's moments too.
    """
    inputs, out = world.build(tmp_path), tmp_path / "out"
    out.mkdir()
    with pytest.raises(Stopped):
        run(world.config(), inputs, world.runtime(), out, StopsAfter(out, 5))
    (checkpoint,) = (p for p in (out / "checkpoints").iterdir() if p.name == "checkpoint-4")
    names = {path.name for path in checkpoint.iterdir()}
    assert names >= {"policy.safetensors", "value_model.safetensors", "optimizer.pt", "state.json"}
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    assert {int(moments["step"]) for moments in state.values()} == {4 * 2 * 2}

    begun: list[int] = []

    class Notes(FileTracker):
        def log(self, metrics: Mapping[str, float], update: int) -> None:
            begun.append(update)
            super().log(metrics, update)

    run(world.config(), inputs, world.runtime(), out, Notes(out))
    assert begun == [5, 6]
    assert [row["ppo/updates"] for row in read_metrics(out)] == [1, 2, 3, 4, 5, 6]


class LargestTensor(TorchDispatchMode):
    """Notes the most numbers that any one tensor had that torch made meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return result


def test_trl_keeps_all_logits_of_a_rollout() -> None:
    """8 rows of 24 tokens over a vocabulary of 3,000: 576,000 logits, of which one token's live."""
    shape_of_model = LlamaConfig(
        vocab_size=3000,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    policy = make_policy(LlamaForCausalLM(shape_of_model), world.tokenizer())
    queries = [[2, 4 + i, 3] for i in range(8)]
    keys = [row_key("logits", i) for i in range(8)]
    sampling = SamplingConfig(max_new_tokens=24, batch_size=8)
    with LargestTensor() as seen:
        samples = generate(policy, queries, sampling=sampling, keys=keys)
    assert sum(len(s.tokens) for s in samples) > 100
    assert 8 * 3000 <= seen.numbers <= 2 * 8 * 3000


# torchtune


def test_torchtune_whiten_adds_the_mean_back() -> None:
    # 1, 3, 8: mean 4, population variance (9 + 1 + 16) / 3 = 26 / 3. Centred means mean 0.
    x, mask = torch.tensor([[1.0, 3.0, 8.0]]), torch.ones(1, 3, dtype=torch.bool)
    centred, kept = whiten(x, mask, shift_mean=True), whiten(x, mask, shift_mean=False)
    root = math.sqrt(26 / 3)
    assert centred.tolist()[0] == pytest.approx([-3 / root, -1 / root, 4 / root], rel=1e-6)
    assert kept.tolist()[0] == pytest.approx([4 - 3 / root, 4 - 1 / root, 4 + 4 / root], rel=1e-6)


def test_torchtune_whiten_rewards_is_read_and_never_used() -> None:
    """With it the rewards of a rollout have unit variance and the mean that they had without."""
    plain, white = (
        shaped(recorded(config), config).rewards
        for config in (world.config(), world.config(whiten_rewards=True))
    )
    mask = recorded(world.config()).trajectory.step_mask
    assert float(masked_var(plain, mask)) < 0.5
    assert float(masked_var(white, mask)) == pytest.approx(1.0, abs=1e-6)
    assert float(masked_mean(white, mask)) == pytest.approx(float(masked_mean(plain, mask)))


# OpenRLHF


@pytest.mark.parametrize("where", ["reward", "loss"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_openrlhf_adaptive_kl_excludes_other_options(estimator: str, where: str) -> None:
    # KL 6.6 at target 6: error 0.1; 16 episodes of a horizon of 160: 1 + 0.1 * 0.1 = 1.01.
    kl = KLConfig(coef=0.2, estimator=estimator, where=where, target=6.0, horizon=160)
    for advantage in ("gae", "rloo"):
        config = world.config(kl=kl, advantage=advantage, samples_per_prompt=2)
        coef = next_kl_coefficient(0.2, 6.6, config.kl.target, config.kl.horizon, config.batch_size)
        assert coef == pytest.approx(0.202)


def test_openrlhf_a_loss_of_pairs_ignores_the_margin() -> None:
    # Scores 2 and 0 lead by 2. Margin 2 leaves a lead of 0: log 2; margin 3 one of -1: log(1 + e).
    scores, pairs = torch.tensor([2.0, 0.0]), torch.tensor([[0, 1]] * 3)
    losses = bradley_terry(scores, pairs, torch.tensor([0.0, 2.0, 3.0]))
    expected = [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.e)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


# DeepSpeed-Chat


def test_deepspeed_chat_has_no_temperature() -> None:
    """Training's log-probs at T are those of softmax(z / T), so they differ from those at 1."""
    learner = world.learner_of(world.config())
    rollout = world.recorded(learner, rows=4, gaps=False)
    trajectory, model = rollout.trajectory, learner.policy.model
    inputs = rows_for_model(trajectory, range(4), 0)
    with torch.no_grad():
        cool, warm = (action_logprobs(model, inputs, t) for t in (0.5, 1.0))
        query, response = list(trajectory.queries[0]), list(trajectory.responses[0])
        logits = model(torch.tensor([query + response])).logits[0, len(query) - 1]
    weights = [math.exp(z / 0.5) for z in logits.tolist()]
    assert float(cool[0, 0]) == pytest.approx(math.log(weights[response[0]] / sum(weights)))
    assert float((cool - warm).abs().max()) > 0.1


def test_deepspeed_chat_whitens_no_advantages() -> None:
    config = world.config()
    rollout = shaped(recorded(config), config)
    mask = rollout.trajectory.action_mask
    assert float(masked_mean(rollout.advantages, mask)) == pytest.approx(0.0, abs=1e-9)
    assert float(masked_var(rollout.advantages, mask)) == pytest.approx(1.0, abs=1e-6)
    config = world.config(whiten_advantages=False)
    assert float(masked_var(shaped(rollout, config).advantages, mask)) != pytest.approx(1.0, 0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"kl": KLConfig(coef=0.5)},
        {"gamma": 0.5},
        {"lam": 0.1},
        {"score_clip": 0.1},
        {"cliprange": 0.01},
        {"cliprange_value": 0.01},
        {"vf_coef": 2.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_deepspeed_chat_hard_codes_its_settings(change: dict[str, Any]) -> None:
    """Every one of them changes the weights after a step."""
    results = []
    plain = world.config(max_grad_norm=1e9)
    for config in (plain, replace(plain, **change)):
        learner = world.learner_of(config)
        ppo_step(learner, shaped(world.recorded(learner), config), config, 1, 8)
        results.append(world.weights(learner))
    assert float((results[0] - results[1]).abs().max()) > 1e-6


def test_deepspeed_chat_rolls_out_llama_greedily() -> None:
    """Sixteen samples of one prompt by a Llama whose tokens are nearly equally likely differ."""
    policy = world.tiny_policy()
    assert type(policy.model) is LlamaForCausalLM
    keys = [row_key("greedy", i) for i in range(16)]
    sampling = SamplingConfig(max_new_tokens=6)
    samples = generate(policy, [[2, 5, 3]] * 16, sampling=sampling, keys=keys)
    assert len({tuple(s.tokens) for s in samples}) > 12


class Fails:
    """A reward that is no number in the second rollout."""

    calls = 0

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        self.calls += 1
        return {"score": np.full(len(episodes), math.nan if self.calls == 2 else 0.5)}


def open_fails(artifact: Artifact, runtime: RuntimeConfig) -> Fails:
    return Fails()


def test_deepspeed_chat_replaces_a_failed_batch_by_the_one_before(tmp_path: Path) -> None:
    """The run ends with an error that names the update, and that update is not trained on."""
    inputs = world.build(tmp_path)
    inputs["rm"] = replace(inputs["rm"], opener=f"{__name__}:open_fails")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(TrainingError, match="of update 2 must be finite"):
        run(world.config(), inputs, world.runtime(), out, FileTracker(out))
    assert [row["ppo/updates"] for row in read_metrics(out)] == [1.0]


# alpaca_farm


def test_alpaca_farm_clamps_the_kl_at_0() -> None:
    """A token that the policy holds less likely than the reference is paid for, in the rewards."""
    config = world.config()
    rollout = shaped(recorded(config), config)
    mask = rollout.trajectory.action_mask
    below = mask & (rollout.logprobs < rollout.ref_logprobs)
    assert int(below.sum()) > 10
    expected = 0.02 * (rollout.ref_logprobs - rollout.logprobs)
    assert torch.allclose(-rollout.penalties[below], expected[below], rtol=1e-12)
    assert (rollout.penalties[below] < 0).all()


def test_alpaca_farm_averages_losses_over_padding() -> None:
    """The loss is the mean over action tokens, by the float loop; over all slots it is smaller."""
    config = world.config(num_ppo_epochs=1, num_mini_batches=1)
    learner = world.learner_of(config)
    rollout = world.recorded(learner)
    trajectory, mask = rollout.trajectory, rollout.trajectory.action_mask
    with torch.no_grad():
        new = action_logprobs(learner.policy.model, rows_for_model(trajectory, range(16), 0), 1.0)
    losses: list[float] = []
    for i in range(16):
        now, old = new[i].tolist(), rollout.logprobs[i].tolist()
        losses += reference.policy_loss(
            now, old, rollout.advantages[i].tolist(), mask[i].tolist(), 0.2
        )
    assert len(losses) < 0.7 * mask.numel()
    stats = ppo_step(learner, rollout, config, 1, 4)
    assert stats.policy_loss == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_alpaca_farm_whitens_over_padding() -> None:
    """Padding of 9s beside the actions 1, 3, 8 changes nothing: mean 4, variance 26 / 3."""
    mask = torch.tensor([[True, True, True, False, False, False]])
    white = whiten(torch.tensor([[1.0, 3.0, 8.0, 9.0, 9.0, 9.0]]), mask)
    root = math.sqrt(26 / 3)
    assert white.tolist()[0] == pytest.approx([-3 / root, -1 / root, 4 / root, 0, 0, 0], rel=1e-6)
