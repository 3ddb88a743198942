"""On-policy distillation: what a teacher adds to each token's advantage, and that it teaches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ppo_reference as reference
import pytest
import torch
from worlds import ppo as world
from worlds.rankings import saved_policy

from plumbrule.errors import ConfigError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.loading import load_policy, save_policy
from plumbrule.lm.response_logprobs import response_logprobs
from plumbrule.lm.token_rows import TokenRow
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.artifacts import Artifact
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo import graph_checks
from rlhf.ppo.advantages import AdvantageInputs
from rlhf.ppo.config import DistillConfig, KLConfig, PPOConfig
from rlhf.ppo.models import load_teacher
from rlhf.ppo.objective import shape
from rlhf.ppo.optimisation.distillation import distillation_advantages
from rlhf.ppo.options import ADVANTAGES
from rlhf.ppo.replay import replay
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.evaluation import Evaluation
from rlhf.ppo.rollout.teacher import teacher_logprobs
from rlhf.ppo.stage import run
from rlhf.ppo.update_settings import shaping_settings
from rlhf.rewards.config import RewardConfig, RewardTermConfig

NO_REWARD = RewardConfig([RewardTermConfig("constant", 0.0)])
ALONE = {
    "advantage": "none",
    "reward": NO_REWARD,
    "kl": KLConfig(coef=0.0),
    "distill": DistillConfig(coef=1.0),
}
"""A distillation without a reward."""


def with_teacher(folder: Path, seed: int = 7, spread: float = 0.6) -> dict[str, Artifact]:
    inputs = world.build(folder)
    save_policy(world.tiny_policy(seed, spread=spread), folder / "teacher" / "model")
    return {**inputs, "teacher": Artifact.of(folder / "teacher", "sft")}


def train(folder: Path, config: PPOConfig, inputs: dict[str, Artifact]) -> Path:
    out = folder / "out"
    out.mkdir()
    run(config, inputs, world.runtime(micro_batch_size=config.batch_size), out, FileTracker(out))
    return out


# Numbers


@pytest.mark.detail(62)
def test_what_a_teacher_adds_by_hand() -> None:
    # The policy gave the tokens 1/2, 1/4 and 1/8, the teacher 1/4, 1/4 and 1/2, at half a reward
    # per nat: .5 log(1/2), 0 and .5 log 4. The last position is a passage's.
    new = torch.tensor([[0.5, 0.25, 0.125, 0.5]]).log()
    teacher = torch.tensor([[0.25, 0.25, 0.5, 0.1]]).log()
    mask = torch.tensor([[True, True, True, False]])
    found = distillation_advantages(new, teacher, mask, 0.5)
    assert found.tolist()[0] == pytest.approx([-0.346574, 0.0, 0.693147, 0.0], abs=1e-6)


@pytest.mark.detail(62)
def test_the_mean_policy_gradient_is_minus_that_of_the_kl_to_the_teacher() -> None:
    """Over all tokens of a distribution, in float64: no sample is drawn."""
    torch.manual_seed(0)
    logits = torch.randn(9, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(9, dtype=torch.float64).log_softmax(-1)
    new = logits.log_softmax(-1)
    kl = (new.exp() * (new - teacher)).sum()
    (slope,) = torch.autograd.grad(kl, logits, retain_graph=True)
    each = torch.ones(1, 9, dtype=torch.bool)
    advantages = distillation_advantages(new.detach()[None], teacher[None], each, 1.0)[0]
    (ours,) = torch.autograd.grad((new.detach().exp() * advantages * new).sum(), logits)
    torch.testing.assert_close(ours, -slope, rtol=0, atol=1e-12)


@pytest.mark.detail(62)
@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_a_teacher_adds_to_the_rewards_advantages_as_the_reference(advantage: str) -> None:
    """Token by token, in float64, over rows with gaps; the reward's own part stays as it was."""
    config = world.config(
        advantage=advantage, samples_per_prompt=4, distill=DistillConfig(coef=0.7)
    )
    rollout = world.recorded(world.learner_of(config), seed=3)
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(rollout.logprobs.shape, generator=draw, dtype=torch.float64)
    taught = rollout.logprobs + noise
    outputs = Evaluation(
        rollout.logprobs, rollout.ref_logprobs, rollout.values, rollout.entropy, taught
    )
    plain = replace(shaping_settings(config, 0.1), distill_coef=0.0)
    without = shape(rollout.trajectory, outputs, rollout.terms, plain)
    shaped = shape(rollout.trajectory, outputs, rollout.terms, replace(plain, distill_coef=0.7))
    added = [
        reference.distillation(*row, 0.7)
        for row in zip(
            rollout.logprobs.tolist(),
            taught.tolist(),
            rollout.trajectory.action_mask.tolist(),
            strict=True,
        )
    ]
    expected = torch.tensor(added, dtype=torch.float64)
    torch.testing.assert_close(shaped.advantages - without.advantages, expected, rtol=0, atol=1e-12)
    assert torch.equal(shaped.returns, without.returns)
    assert torch.equal(shaped.rewards, without.rewards)


@pytest.mark.detail(62)
@pytest.mark.option("ppo.advantage", "none")
def test_without_an_advantage_of_the_reward_nothing_is_left_but_the_teacher() -> None:
    rewards = torch.ones(2, 3, dtype=torch.float64)
    mask = torch.ones(2, 3, dtype=torch.bool)
    given = AdvantageInputs(rewards, rewards, mask, mask, 1, 1.0, 1.0)
    assert [x.tolist() for x in ADVANTAGES["none"](given)] == [[[0.0] * 3] * 2] * 2


@pytest.mark.detail(62)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_teacher_is_read_at_the_temperature_that_sampled(temperature: float) -> None:
    config = world.config()
    trajectory = world.recorded(world.learner_of(config), seed=3, gaps=False).trajectory
    teacher = world.exact_policy(5)
    found = teacher_logprobs(
        trajectory, teacher, temperature=temperature, precision="float32", micro_batch_size=3
    )
    rows = zip(trajectory.queries, trajectory.responses, strict=True)
    expected = response_logprobs(
        teacher, [TokenRow(tuple(q), tuple(r)) for q, r in rows], 1, temperature=temperature
    )
    torch.testing.assert_close(found.sum(1), expected, rtol=0, atol=1e-9)
    assert found[~trajectory.action_mask].abs().max() == 0


# It learns


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_policy_approaches_its_teacher_without_any_reward(tmp_path: Path, seed: int) -> None:
    """KL(policy || teacher) of the first token, exact, over all prompts; and as the run logs it."""
    inputs = with_teacher(tmp_path, seed=7 + seed)
    config = world.config(
        seed=seed,
        total_episodes=64 * 24,
        batch_size=64,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        sampling=SamplingConfig(max_new_tokens=3, batch_size=64),
        missing_eos_penalty=0.0,
        **ALONE,
    )
    out = train(tmp_path, config, inputs)
    before, after = (
        first_token_kl(folder / "model", tmp_path / "teacher" / "model")
        for folder in (tmp_path / "sft", out)
    )
    assert before > 0.1
    assert after < 0.6 * before
    rows = read_metrics(out)
    logged = [row["objective/teacher_kl"] for row in rows]
    assert sum(logged[-4:]) < 0.85 * sum(logged[:4])


def first_token_kl(policy: Path, teacher: Path) -> float:
    one, other = load_policy(policy), load_policy(teacher)
    total = 0.0
    for prompt in world.prompts():
        tokens = torch.tensor([one.encode(prompt.messages)])
        with torch.no_grad():
            p, q = (x.model(tokens).logits[0, -1].double().log_softmax(-1) for x in (one, other))
        total += float((p.exp() * (p - q)).sum())
    return total / len(world.prompts())


# The run


def test_a_run_keeps_what_its_teacher_said_and_can_be_replayed(tmp_path: Path) -> None:
    inputs = with_teacher(tmp_path)
    config = world.config(total_episodes=32, distill=DistillConfig(coef=0.5))
    out = train(tmp_path, config, inputs)
    rows = read_metrics(out)
    kept = parquet.read(parquet.path_of(out / "rollouts", 1))
    assert kept.teacher_logprobs is not None
    gap = (kept.logprobs - kept.teacher_logprobs).sum(1).mean()
    assert rows[0]["objective/teacher_kl"] == pytest.approx(float(gap), rel=1e-5)
    for update, logged, now in replay(config, inputs, world.runtime(), out):
        for name in ("replay/score_rank_correlation", "replay/advantage_correlation"):
            now.pop(name)
        assert now == pytest.approx({name: logged[name] for name in now}, rel=1e-6, abs=1e-9), (
            update
        )


def test_without_a_teacher_a_rollout_has_no_column_of_it(tmp_path: Path) -> None:
    config = world.config(total_episodes=16)
    out = train(tmp_path, config, world.build(tmp_path))
    assert parquet.read(parquet.path_of(out / "rollouts", 1)).teacher_logprobs is None
    assert "objective/teacher_kl" not in read_metrics(out)[0]
    taught = replace(config, distill=DistillConfig(coef=1.0))
    with pytest.raises(ConfigError, match=r"ppo\.distill\.coef .*had no teacher"):
        replay(taught, world.inputs_in(tmp_path), world.runtime(), out)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistillConfig(coef=-1.0), r"ppo\.distill\.coef \(=-1\.0 per nat\)"),
        (lambda: DistillConfig(1.0, "gpt2"), r"ppo\.distill\.revision .*40-digit hex commit"),
        (lambda: DistillConfig(1.0, revision="0" * 40), r"distill\.revision .*be null without"),
        (lambda: DistillConfig(precision="float16"), r"ppo\.distill\.precision"),
        (lambda: DistillConfig(0.0, "gpt2", "0" * 40), r"distill\.coef \(=0\.0\) must be above 0"),
        (
            lambda: world.config(**{**ALONE, "distill": DistillConfig()}),
            r"ppo\.advantage \(=none\) must be another without ppo\.distill\.coef",
        ),
        (
            lambda: world.config(**{**ALONE, "kl": KLConfig(coef=0.1)}),
            r"ppo\.kl\.coef \(=0\.1\) must be 0 with ppo\.advantage=none",
        ),
    ],
)
def test_settings_that_can_not_be(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_node_needs_exactly_one_teacher_held_whole(tmp_path: Path) -> None:
    config = world.config(**ALONE)
    node = PlacedNode("ppo", "ppo", {}, config)
    with pytest.raises(ConfigError, match=r"name a teacher if and only if node ppo has no teacher"):
        graph_checks.check(node, world.runtime())
    given = replace(node, inputs={"teacher": PlacedNode("big", "sft", {})})
    graph_checks.check(given, world.runtime())
    named = replace(config, distill=DistillConfig(1.0, str(tmp_path)))
    graph_checks.check(replace(node, config=named), world.runtime())
    with pytest.raises(ConfigError, match=r"\(=big\); take one of the two out"):
        graph_checks.check(replace(given, config=named), world.runtime())
    with pytest.raises(ConfigError, match=r"ppo\.distill\.coef .*runtime\.sharding=fsdp"):
        graph_checks.check(given, RuntimeConfig(device="cpu", sharding="fsdp", processes=2))


def test_a_teacher_of_another_tokenizer_is_refused_by_name_before_training(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    inputs["teacher"] = Artifact.of(saved_policy(tmp_path / "teacher"), "sft")
    config, out = world.config(**ALONE), tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match=r"teacher .*teacher/model\) must have the tokenizer of"):
        run(config, inputs, world.runtime(), out, FileTracker(out))
    assert not (out / "metrics.jsonl").exists()


def test_a_teacher_that_reads_less_than_the_policy_is_refused(tmp_path: Path) -> None:
    inputs = with_teacher(tmp_path)
    policy = load_policy(tmp_path / "sft" / "model")
    longer = replace(policy, spec=replace(policy.spec, context=policy.spec.context + 1))
    with pytest.raises(
        ConfigError, match=r"must read the policy's context of 65 tokens, and its own"
    ):
        load_teacher(world.config(**ALONE), inputs, longer)


def test_a_teacher_that_does_not_load_is_named_by_its_setting(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    config = world.config(**{**ALONE, "distill": DistillConfig(1.0, str(tmp_path))})
    with pytest.raises(ConfigError, match=r"ppo\.distill\.name_or_path"):
        load_teacher(config, {}, world.tiny_policy())
