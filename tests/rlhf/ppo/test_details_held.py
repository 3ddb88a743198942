"""Tests written with the mutants of `scripts/mutate.py`, for details that had none to catch theirs.

Each is arithmetic by hand or an equality with something computed another way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from worlds import ppo as world
from worlds.ppo import add_gradients, ppo_step

from plumbrule.data.records import Prompt, read_records
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import Policy, load_policy
from plumbrule.lm.randomness import row_key
from plumbrule.lm.response_logprobs import TokenRow
from plumbrule.protocols import Episode
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.config import KLConfig, PPOConfig
from rlhf.ppo.objective import shape
from rlhf.ppo.optimisation.learner import trainable
from rlhf.ppo.optimisation.mini_batches import OptimizerStep
from rlhf.ppo.ptx import PTX, add_ptx_gradients
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.evaluation import Evaluation, evaluate
from rlhf.ppo.rollout.trajectory import Trajectory
from rlhf.ppo.stage import run
from rlhf.ppo.update_settings import shaping_settings
from rlhf.reward_model.model import RewardModel, RewardScorer
from rlhf.reward_model.rows import TokenizedAnswer, collate
from rlhf.rewards.config import RewardConfig, RewardTermConfig


def train(folder: Path, config: PPOConfig, **policy: object) -> Path:
    """Run the stage in `folder`; return where it wrote."""
    inputs = world.build(folder, **policy)  # type: ignore[arg-type]
    out = folder / "out"
    out.mkdir()
    run(config, inputs, world.runtime(), out, FileTracker(out))
    return out


def gradient(model: torch.nn.Module) -> torch.Tensor:
    grads = [p.grad for p in trainable(model)]
    return torch.cat([g.flatten() for g in grads if g is not None])


# 9 Length of responses


@pytest.mark.detail(9)
def test_a_row_that_ends_leaves_the_others_as_they_are() -> None:
    """Two dozen rows of which most end on the way, against each of them sampled alone."""
    policy = world.tiny_policy(spread=0.5)
    queries = [[2, 4 + i % 12, 3] for i in range(24)]
    keys = [row_key("held", i) for i in range(24)]

    def sampled(size: int) -> list[list[int]]:
        sampling = SamplingConfig(max_new_tokens=12, batch_size=size)
        return [s.tokens for s in generate(policy, queries, sampling=sampling, keys=keys)]

    together = sampled(24)
    lengths = sorted(len(tokens) for tokens in together)
    assert lengths[6] < 12  # more than a quarter have left before the end
    assert lengths[-1] == 12
    assert together == sampled(1)


@pytest.mark.detail(9)
def test_what_a_fixed_length_sampler_adds_behind_an_end_changes_no_loss() -> None:
    """Three more tokens in every response, none of them an action: the same step."""
    config = world.config()
    plain = world.recorded(world.learner_of(config))
    pad = torch.nn.functional.pad
    trajectory = replace(
        plain.trajectory,
        responses=[[*r, 5, 1, 7] for r in plain.trajectory.responses],
        action_mask=pad(plain.trajectory.action_mask, (0, 3)),
        step_mask=pad(plain.trajectory.step_mask, (0, 3)),
        rollout_logprobs=pad(plain.trajectory.rollout_logprobs, (0, 3), value=-9.0),
    )
    columns = ("logprobs", "ref_logprobs", "values", "advantages", "returns")
    wide = {name: pad(getattr(plain, name), (0, 3), value=9.0) for name in columns}
    longer = plain._replace(**wide)._replace(trajectory=trajectory)
    one, other = world.learner_of(config), world.learner_of(config)
    stats = ppo_step(one, plain, config, 1, 4)
    assert ppo_step(other, longer, config, 1, 4) == pytest.approx(stats, rel=1e-9)
    assert torch.allclose(world.weights(one), world.weights(other), rtol=0, atol=1e-10)


# 21 Reward clipping


@pytest.mark.detail(21)
def test_the_clip_comes_before_the_penalty_and_the_kl() -> None:
    # Scores 7 and -9 are cut to 5 and -5; the second never ended and loses 1 more: -6.
    # KL 30 and 10 nats in the first response, 40 in the second, at 0.1 per nat: -3, -1 and -4.
    # Rewards: -3, -1 + 5 = 4; and -4 - 6 = -10, which lies outside the bound, as it may.
    acts = torch.tensor([[True, True], [True, False]])
    trajectory = Trajectory(
        prompt_ids=["a", "b"],
        passages=[(), ()],
        queries=[[4], [5]],
        responses=[[6, 1], [7]],
        texts=["", ""],
        action_mask=acts,
        step_mask=acts,
        finished=torch.tensor([True, False]),
        rollout_logprobs=torch.zeros(2, 2),
    )
    ref = torch.tensor([[-30.0, -10.0], [-40.0, 0.0]])
    zeros = torch.zeros(2, 2)
    config = world.config(
        batch_size=2,
        score_clip=5.0,
        missing_eos_penalty=1.0,
        reward=RewardConfig([RewardTermConfig("constant")]),
    )
    scores = {"constant": torch.tensor([7.0, -9.0], dtype=torch.float64)}
    rollout = shape(
        trajectory, Evaluation(zeros, ref, zeros, zeros), scores, shaping_settings(config, 0.1)
    )
    assert rollout.raw_scores.tolist() == [7.0, -9.0]
    assert rollout.scores.tolist() == [5.0, -6.0]
    assert rollout.rewards.tolist() == [pytest.approx([-3.0, 4.0]), pytest.approx([-10.0, 0.0])]


# 45 The reference


@pytest.mark.detail(45)
def test_the_reference_is_the_policy_that_came_in_and_stays_it(tmp_path: Path) -> None:
    """Its log-probs in the last update are those of the folder that PPO started from."""
    out = train(tmp_path, world.config(), spread=0.5)
    sft, trained = load_policy(tmp_path / "sft" / "model"), load_policy(out / "model")
    rollout = parquet.read(out / "rollouts" / "update-00006.parquet")
    mask = rollout.trajectory.action_mask

    def logprobs_of(policy: Policy) -> torch.Tensor:
        return evaluate(
            rollout.trajectory,
            policy,
            policy,
            None,
            temperature=1.0,
            precision="float32",
            micro_batch_size=16,
        ).logprobs

    assert torch.allclose(rollout.ref_logprobs, logprobs_of(sft), atol=1e-5)
    assert float((rollout.logprobs - rollout.ref_logprobs)[mask].abs().max()) > 1e-3
    assert float((logprobs_of(trained) - logprobs_of(sft))[mask].abs().max()) > 1e-3
    assert read_metrics(out)[-1]["objective/kl"] > 0


@pytest.mark.detail(45)
def test_what_is_read_before_the_update_keeps_no_graph() -> None:
    learner = world.learner_of(world.config())
    seen = world.evaluated(learner, world.recorded(learner).trajectory, micro_batch_size=4)
    columns = {name: column for name, column in seen._asdict().items() if column is not None}
    assert "teacher_logprobs" not in columns  # there is no teacher
    assert [name for name, column in columns.items() if column.requires_grad] == []


# 46 Tokenizers


@pytest.mark.detail(46)
def test_a_reward_model_of_another_tokenizer_reads_text_and_not_ids() -> None:
    """Its score of a response is that of its own ids for the text, which the policy's are not."""
    policy, judge = world.tiny_policy(), world.tiny_policy(seed=3, spread=0.5)
    words = {token: i for i, token in enumerate(world.TOKENS)}
    turned = {**words, "gold": words["sun"], "sun": words["gold"]}
    tokenizer = json.loads(judge.tokenizer.backend_tokenizer.to_str())
    tokenizer["model"]["vocab"] = turned
    backend = type(judge.tokenizer.backend_tokenizer)
    judge.tokenizer = type(world.tokenizer())(
        tokenizer_object=backend.from_str(json.dumps(tokenizer)),
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template=world.TEMPLATE,
    )
    model = RewardModel(judge, seed=1)
    prompt = world.prompts(1)[0]
    ids = [words["gold"], words["rain"], words["<eos>"]]
    episode = Episode(prompt, (), policy.decode(ids), True)
    (score,) = RewardScorer(model, 4).score([episode])["score"]
    swap = {words["gold"]: words["sun"], words["sun"]: words["gold"]}
    query = policy.encode(prompt.messages)

    def raw(row: Sequence[int]) -> float:
        with torch.no_grad():
            return model.scores(*collate([TokenizedAnswer(tuple(row), len(query))], 0)).item()

    assert score == pytest.approx(raw([swap.get(i, i) for i in (*query, *ids)]), abs=1e-6)
    assert abs(score - raw([*query, *ids])) > 1e-3


# 47 Validation samples


@pytest.mark.detail(47)
def test_validation_samples_are_greedy_and_of_both_policies(tmp_path: Path) -> None:
    """Against a loop of whole forward passes and argmax."""
    out = train(tmp_path, world.config(num_samples=4, learning_rate=3e-2), spread=0.5)
    before, after = load_policy(tmp_path / "sft" / "model"), load_policy(out / "model")
    lines = (out / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    held_out = read_records(Prompt, tmp_path / "prompts" / "validation.jsonl")
    assert [row["id"] for row in rows] == [prompt.id for prompt in held_out]

    def greedy(policy: Policy, prompt: Prompt) -> str:
        query = policy.encode(prompt.messages)
        response: list[int] = []
        while len(response) < 5 and (not response or response[-1] != policy.terminal_id):
            with torch.no_grad():
                logits = policy.model(torch.tensor([[*query, *response]])).logits[0, -1]
            response.append(int(logits.argmax()))
        return policy.decode(response)

    for row, prompt in zip(rows, held_out, strict=True):
        assert row["response_before"] == greedy(before, prompt)
        assert row["response"] == greedy(after, prompt)
    assert any(row["response"] != row["response_before"] for row in rows)


# 48 PPO-ptx


@pytest.mark.detail(48)
def test_the_gradient_of_demonstrations_is_the_coefficient_times_that_of_their_mean() -> None:
    """One demonstration, drawn eight times: coef * d/dw of -1/3 sum_j log p(token j)."""
    policy = world.learner_of(world.config()).policy
    row = TokenRow((2, 5, 3), (9, 6, 1))
    sums = add_ptx_gradients(
        policy,
        PTX([row], coef=2.5, batch_size=8),
        OptimizerStep(1, 1, 1),
        seed=0,
        precision="float32",
        micro_batch_size=3,
    )
    found = gradient(policy.model)

    policy.model.zero_grad()
    logits = policy.model(torch.tensor([[*row.prompt, *row.response]])).logits[0].log_softmax(-1)
    by_hand = -(logits[2, 9] + logits[3, 6] + logits[4, 1]) / 3
    (2.5 * by_hand).backward()
    assert torch.allclose(found, gradient(policy.model), rtol=1e-9, atol=1e-12)
    assert sums.tolist() == pytest.approx([8 * 3 * by_hand.item(), 24.0])


@pytest.mark.detail(48)
def test_each_optimizer_step_draws_demonstrations_of_its_own() -> None:
    """Of which there are six, told apart by their lengths; the same step draws the same ones."""
    policy = world.learner_of(world.config()).policy
    known = PTX([TokenRow((2, 5, 3), (6,) * (i + 1)) for i in range(6)], 1.0, 2)
    places = [OptimizerStep(u, e, m) for u in (1, 2) for e in (1, 2) for m in (1, 2)]

    def tokens(place: OptimizerStep) -> float:
        sums = add_ptx_gradients(
            policy, known, place, seed=0, precision="float32", micro_batch_size=2
        )
        return float(sums[1])

    drawn = [tokens(place) for place in places]
    assert [tokens(place) for place in places] == drawn
    for name, which in (("update", 0), ("epoch", 1), ("mini_batch", 2)):
        others = [drawn[places.index(p._replace(**{name: 3 - p[which]}))] for p in places]
        assert others != drawn, f"every {name} draws the same"


# 52 A sampler that is not quite the policy


@pytest.mark.detail(52)
@pytest.mark.parametrize(("cap", "weight"), [(4.0, 2.0), (1.5, 1.5)])
def test_importance_weights_scale_the_policys_gradient(cap: float, weight: float) -> None:
    """A sampler that gave every token half its probability: weight 2, cut at the cap."""
    gradients = {}
    for bound in (None, cap):
        config = world.config(importance_cap=bound)
        learner = world.learner_of(config)
        rollout = world.recorded(learner)
        sampled = rollout.logprobs - math.log(2.0)
        rollout = rollout._replace(trajectory=replace(rollout.trajectory, rollout_logprobs=sampled))
        add_gradients(learner, rollout, list(range(16)), config, 4)
        gradients[bound] = gradient(learner.policy.model)
    assert float(gradients[None].norm()) > 0.1
    assert torch.allclose(gradients[cap], weight * gradients[None], rtol=1e-9, atol=1e-12)


# 51 Monitors


@pytest.mark.detail(51)
def test_the_gold_utility_beside_a_reward_is_logged_at_weight_0(tmp_path: Path) -> None:
    """At weight 0 it is on the record, and the score is the reward model's alone."""
    reward = RewardConfig([RewardTermConfig("rm"), RewardTermConfig("gold", 0.0)])
    config = world.config(total_episodes=16, reward=reward, missing_eos_penalty=0.0)
    out = train(tmp_path, config)
    row = read_metrics(out)[0]
    rollout = parquet.read(out / "rollouts" / "update-00001.parquet")
    assert torch.equal(rollout.scores, rollout.terms["rm"])
    assert row["objective/scores"] == pytest.approx(row["reward/rm_raw"])
    assert row["reward/gold_raw"] == pytest.approx(float(rollout.terms["gold"].mean()))
    assert row["reward/gold_raw"] != 0.0
    assert row["reward/gold"] == 0.0


@pytest.mark.detail(19)
def test_a_target_steers_the_kl_of_the_next_update_not_of_this_one(tmp_path: Path) -> None:
    """The first update's KL is 0 and below any target, so the second's coefficient is lower.

    0.02 * (1 - 0.2 * 16 / 64) = 0.019: sixteen episodes of a horizon of sixty-four.
    """
    kl = KLConfig(coef=0.02, target=0.01, horizon=64)
    out = train(tmp_path, world.config(total_episodes=32, kl=kl))
    assert [row["objective/kl_coef"] for row in read_metrics(out)] == pytest.approx([0.02, 0.019])
