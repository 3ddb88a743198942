"""The stage on a tiny world: what its files hold, what its inputs may be, what each option does."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from worlds import ppo as world

from plumbrule.data.records import Demonstration, Message, Prompt, read_records, write_records
from plumbrule.errors import ConfigError, DataError, TrainingError
from plumbrule.lm.chat import encode_chat
from plumbrule.lm.config import RetrievalConfig, SamplingConfig
from plumbrule.lm.loading import Policy, load_policy, make_policy, save_policy
from plumbrule.protocols import Episode, Passage
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker, NullTracker
from rlhf.masked import masked_mean, masked_var, row_sums, whiten
from rlhf.ppo.advantages import gae
from rlhf.ppo.config import KLConfig, PPOConfig, PTXConfig
from rlhf.ppo.kl import k1
from rlhf.ppo.losses import policy_loss, value_loss
from rlhf.ppo.measures.metrics import Consistency, consistency, warn_if_inconsistent
from rlhf.ppo.models import load_actors, make_value_model
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.evaluation import evaluate, state_values
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.prompts import batch_of
from rlhf.ppo.rollout.trajectory import Trajectory, padded, rows_for_model, sampling_keys
from rlhf.ppo.stage import run
from rlhf.ppo.value_model import value_from_policy, value_from_reward_model
from rlhf.reward_model.model import RewardModel
from rlhf.reward_model.reward_stats import RewardStats
from rlhf.rewards.config import RewardConfig, RewardTermConfig
from rlhf.rewards.transforms import shape_rewards


class Finished(NamedTuple):
    inputs: dict[str, Artifact]
    config: PPOConfig
    out: Path
    headlines: Mapping[str, float]
    rows: list[dict[str, Any]]
    rollouts: list[Rollout]


def train(
    folder: Path,
    config: PPOConfig,
    inputs: dict[str, Artifact] | None = None,
    runtime: RuntimeConfig | None = None,
    **policy: object,
) -> Finished:
    inputs = inputs or world.build(folder, **policy)  # type: ignore[arg-type]
    out = folder / "out"
    out.mkdir()
    headlines = run(config, inputs, runtime or world.runtime(), out, FileTracker(out))
    files = sorted((out / "rollouts").iterdir())
    return Finished(
        inputs, config, out, headlines, read_metrics(out), [parquet.read(f) for f in files]
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return train(tmp_path_factory.mktemp("ppo"), world.config(total_episodes=40, gamma=0.98))


def policy_of(finished: Finished, where: str = "policy") -> Policy:
    folder = finished.out if where == "out" else finished.inputs[where].path
    return load_policy(folder / "model")


@pytest.mark.parametrize(
    ("file", "record"),
    [
        ("prompts/records.jsonl", Prompt),
        ("prompts/validation.jsonl", Prompt),
        ("demonstrations/records.jsonl", Demonstration),
    ],
)
def test_a_chat_that_the_template_refuses_is_named_before_any_work(
    tmp_path: Path, file: str, record: Any
) -> None:
    inputs = world.build(tmp_path)
    policy = world.tiny_policy()
    policy.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}" + world.TEMPLATE.partition("%}")[2]
    )
    policy = make_policy(policy.model, policy.tokenizer)
    save_policy(policy, inputs["policy"].path / "model")
    rows = read_records(record, tmp_path / file)
    turns = (Message("system", "rain"), *rows[1].messages)
    write_records([rows[0], replace(rows[1], messages=turns), *rows[2:]], tmp_path / file)
    inputs = {name: Artifact.of(a.path, a.kind, a.opener) for name, a in inputs.items()}
    config = world.config(ptx=PTXConfig(coef=0.5, batch_size=8))
    with pytest.raises(DataError, match=rf"first is '{rows[1].id}'.*no system"):
        run(config, inputs, world.runtime(), tmp_path, FileTracker(tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()


# What the artifact holds


@pytest.mark.detail(38)
def test_the_artifact(done: Finished) -> None:
    assert done.config.num_updates == len(done.rollouts) == len(done.rows) == 3  # 40 / 16 is 2.5
    published = [p for p in done.out.rglob("*") if p.is_file() and "checkpoints" not in p.parts]
    assert {p.suffix for p in published} <= {
        ".safetensors",
        ".json",
        ".jsonl",
        ".parquet",
        ".jinja",
    }
    before, after = policy_of(done), policy_of(done, "out")
    assert after.spec == before.spec
    moved = [
        not torch.equal(a, b)
        for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True)
    ]
    assert all(moved)
    assert "head.weight" in load_file(done.out / "value" / "model.safetensors")
    samples = [json.loads(line) for line in (done.out / "samples.jsonl").read_text().splitlines()]
    assert [s["id"] for s in samples] == ["p0", "p1"]
    assert set(samples[0]) >= {"prompt", "passages", "response", "response_before", "finished"}
    assert json.loads((done.out / "notes.json").read_text()) == []


@pytest.mark.detail(51)
def test_headlines_are_those_of_the_last_update(done: Finished) -> None:
    last = done.rows[-1]
    for name in ("objective/kl", "objective/scores", "objective/rlhf_reward", "val/num_eos_tokens"):
        assert done.headlines[name] == last[name]
    assert done.headlines["ppo/updates"] == 3
    assert done.headlines["ppo/episodes"] == 48
    assert done.headlines["ppo/episodes_per_second"] > 0
    assert all(math.isfinite(v) for row in done.rows for v in row.values())


def test_the_file_reads_back_bit_for_bit(done: Finished, tmp_path: Path) -> None:
    parquet.write(done.rollouts[1], tmp_path / "again.parquet")
    again = parquet.read(tmp_path / "again.parquet")
    for name in (*parquet.TOKEN_COLUMNS, "scores", "raw_scores"):
        assert torch.equal(getattr(again, name), getattr(done.rollouts[1], name)), name
    assert again.terms.keys() == done.rollouts[1].terms.keys()
    assert vars(again.trajectory).keys() == vars(done.rollouts[1].trajectory).keys()


@pytest.mark.detail(15)
@pytest.mark.detail(24)
@pytest.mark.detail(25)
def test_steps_3_and_4_follow_from_the_file(done: Finished) -> None:
    for rollout in done.rollouts:
        mask, config = rollout.trajectory.action_mask, done.config
        kl = k1(rollout.logprobs, rollout.ref_logprobs, mask)
        assert torch.equal(kl, rollout.kl)
        assert torch.equal(
            shape_rewards(rollout.scores, config.kl.coef * kl, mask, mask), rollout.rewards
        )
        advantages, returns = gae(rollout.rewards, rollout.values, mask, config.gamma, config.lam)
        assert torch.equal(returns, rollout.returns)
        assert torch.equal(whiten(advantages, mask), rollout.advantages)
        assert float(masked_mean(rollout.advantages, mask)) == pytest.approx(0.0, abs=1e-6)
        assert float(masked_var(rollout.advantages, mask)) == pytest.approx(1.0, abs=1e-3)
        total = rollout.scores - config.kl.coef * row_sums(kl, mask)
        assert torch.allclose(row_sums(rollout.rewards, mask), total, atol=1e-6)


def test_losses_computed_again_from_the_file_are_those_of_the_run(tmp_path: Path) -> None:
    """One step of one mini-batch: its losses need the first policy and the file, nothing else."""
    config = world.config(total_episodes=16, num_ppo_epochs=1, num_mini_batches=1, lam=0.8)
    finished = train(tmp_path, config, spread=0.5)
    rollout, row = finished.rollouts[0], finished.rows[0]
    mask, policy = rollout.trajectory.action_mask, policy_of(finished)
    seen = evaluate(
        rollout.trajectory,
        policy,
        policy,
        value_from_policy(policy),
        temperature=1.0,
        precision="float32",
        micro_batch_size=16,
    )
    pg = policy_loss(seen.logprobs, rollout.logprobs, rollout.advantages, mask, config.cliprange)
    vf = value_loss(seen.values, rollout.values, rollout.returns, mask, config.cliprange_value)
    assert row["loss/policy_avg"] == pytest.approx(float(masked_mean(pg.loss, mask)), abs=1e-6)
    assert row["loss/value_avg"] == pytest.approx(float(masked_mean(vf.loss, mask)), rel=1e-5)
    assert row["objective/kl"] == 0.0
    assert row["objective/entropy"] == pytest.approx(
        float(masked_mean(seen.entropy, mask)), rel=1e-5
    )


@pytest.mark.detail(11)
def test_responses_end_at_their_first_stop_token(done: Finished) -> None:
    policy = policy_of(done)
    stop = policy.spec.stop_token_ids[0]
    ends = []
    for trajectory in (r.trajectory for r in done.rollouts):
        for i, ids in enumerate(trajectory.responses):
            finished = bool(trajectory.finished[i])
            ends.append(finished)
            assert stop not in ids[:-1]
            assert (ids[-1] == stop) == finished
            assert finished or len(ids) == done.config.sampling.max_new_tokens
            # The terminal token is an action like any other; nothing behind it is.
            width = trajectory.action_mask.shape[1]
            assert trajectory.action_mask[i].tolist() == [j < len(ids) for j in range(width)]
            assert "<eos>" not in trajectory.texts[i]
    assert 0 < sum(ends) < len(ends)


@pytest.mark.detail(12)
@pytest.mark.detail(51)
@pytest.mark.detail(54)
def test_a_response_without_its_terminal_token_pays_once(done: Finished) -> None:
    for rollout, row in zip(done.rollouts, done.rows, strict=True):
        finished = rollout.trajectory.finished
        paid = rollout.raw_scores - rollout.scores
        assert torch.allclose(paid, torch.where(finished, 0.0, 0.1).double())
        assert row["val/num_eos_tokens"] == int(finished.sum())
        assert row["objective/scores_raw"] == pytest.approx(float(rollout.raw_scores.mean()))


# Log-probs, values, temperature, padding


@pytest.mark.detail(7)
@pytest.mark.detail(8)
@pytest.mark.detail(10)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_one_temperature_everywhere(tmp_path: Path, temperature: float) -> None:
    """Sampler, old, new and reference log-probs agree, so the first KL is 0 and the first ratio 1.

    They are taken over the whole vocabulary: any top-k or top-p in the sampler would show here.
    """
    config = world.config(
        total_episodes=16, sampling=SamplingConfig(temperature=temperature, max_new_tokens=6)
    )
    finished = train(tmp_path, config, spread=1.0)
    row = finished.rows[0]
    assert policy_of(finished, "out").spec.temperature == temperature
    assert row["objective/kl"] == 0.0
    assert row["val/first_ratio_error"] < 1e-5
    assert row["val/logprob_gap_max"] < 1e-4  # rounding; another temperature makes it 0.1 and more
    assert row["policy/approxkl_avg"] > 1e-6  # later ratios do move


@pytest.mark.detail(3)
@pytest.mark.detail(4)
def test_no_row_sees_its_neighbours_padding() -> None:
    """Log-probs and values of one row alone, without any padding, are those in every batch."""
    learner = world.learner_of(world.config())
    rollout = world.recorded(learner)
    trajectory, model = rollout.trajectory, learner.policy.model

    def seen(micro_batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = evaluate(
            trajectory,
            learner.policy,
            learner.policy,
            learner.value_model,
            temperature=0.7,
            precision="float32",
            micro_batch_size=micro_batch_size,
        )
        return found.logprobs, found.values

    logprobs, values = seen(16)
    for size in (1, 3):
        for one, other in zip(seen(size), (logprobs, values), strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-12)
    for i in range(16):
        query, response = list(trajectory.queries[i]), list(trajectory.responses[i])
        with torch.no_grad():
            found = model(torch.tensor([query + response]), output_hidden_states=True)
            logits = found.logits[0] / 0.7
        expected = logits - logits.logsumexp(-1, keepdim=True)
        head = learner.value_model.head
        for j, token in enumerate(response):
            if trajectory.action_mask[i, j]:
                before = len(query) + j - 1
                assert float(logprobs[i, j]) == pytest.approx(
                    float(expected[before, token]), abs=1e-12
                )
                value = head(found.hidden_states[-1][0, before]).detach()
                assert float(values[i, j]) == pytest.approx(float(value), abs=1e-12)


@pytest.mark.detail(1)
def test_values_read_the_query_and_only_what_stands_before_the_token() -> None:
    learner = world.learner_of(world.config())
    trajectory = world.recorded(learner, rows=1, gaps=False).trajectory

    def values(of: Trajectory) -> torch.Tensor:
        with torch.no_grad():
            return state_values(learner.value_model, rows_for_model(of, [0], 0))[0]

    plain = values(trajectory)
    query, response = list(trajectory.queries[0]), list(trajectory.responses[0])
    other_query = replace(trajectory, queries=[[query[0] ^ 1, *query[1:]]])
    assert not torch.isclose(values(other_query), plain, atol=1e-6).any()
    for j in range(len(response)):
        changed = [*response[:j], response[j] ^ 1, *response[j + 1 :]]
        now = values(replace(trajectory, responses=[changed]))
        assert torch.equal(now[: j + 1], plain[: j + 1])  # the value before token j can't know it
        assert not torch.isclose(now[j + 1 :], plain[j + 1 :], atol=1e-9).any()


@pytest.mark.detail(2)
def test_pad_may_be_the_terminal_token(tmp_path: Path) -> None:
    """Masks come from lengths, so a run with pad == eos is the same run."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    config = world.config(total_episodes=32)
    one = train(tmp_path / "a", config, pad_token="<pad>")
    other = train(tmp_path / "b", config, pad_token="<eos>")
    for name in ("objective/kl", "objective/scores", "loss/policy_avg", "loss/value_avg"):
        assert [r[name] for r in one.rows] == [r[name] for r in other.rows]


@pytest.mark.detail(35)
def test_dropout_in_the_policys_config_changes_nothing(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    config_file = inputs["policy"].path / "model" / "config.json"
    settings = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**settings, "attention_dropout": 0.5}))
    row = train(tmp_path, world.config(total_episodes=16), inputs).rows[0]
    assert row["val/first_ratio_error"] < 1e-6
    assert row["val/logprob_gap_max"] < 1e-5


@pytest.mark.detail(44)
def test_the_samplers_and_the_gradients_batches_change_no_response(tmp_path: Path) -> None:
    results = []
    for name, size, micro in (("a", 3, 2), ("b", 64, 64)):
        (tmp_path / name).mkdir()
        config = world.config(
            total_episodes=48, sampling=SamplingConfig(max_new_tokens=5, batch_size=size)
        )
        results.append(
            train(tmp_path / name, config, runtime=world.runtime(micro_batch_size=micro))
        )
    for one, other in zip(results[0].rollouts, results[1].rollouts, strict=True):
        assert one.trajectory.responses == other.trajectory.responses
        assert torch.allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_bfloat16_runs_within_its_bound(tmp_path: Path) -> None:
    """The forward pass is bfloat16's, and sampler and training agree within its rounding."""
    config = world.config(total_episodes=16, precision="bfloat16")
    finished = train(tmp_path, config, spread=0.5)
    row, rollout, policy = finished.rows[0], finished.rollouts[0], policy_of(finished)
    assert row["val/logprob_gap_max"] < 0.5
    assert row["val/first_ratio_error"] < 1e-5  # scored and trained by the same arithmetic
    exact = evaluate(
        rollout.trajectory,
        policy,
        policy,
        value_from_policy(policy),
        temperature=1.0,
        precision="float32",
        micro_batch_size=16,
    )
    assert rollout.logprobs.dtype == torch.float32
    assert 1e-4 < float((rollout.logprobs - exact.logprobs).abs().max()) < 0.1


@pytest.mark.detail(52)
def test_the_meter_by_hand_and_its_warning(caplog: pytest.LogCaptureFixture) -> None:
    mask = torch.tensor([[True, True, False]])
    gap = consistency(torch.tensor([[-1.0, -2.0, math.nan]]), torch.tensor([[-1.5, -2.0, 0]]), mask)
    assert gap == Consistency(largest=0.5, mean=0.25, out_of_band=0.0)
    wide = consistency(torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.7, -1.3, 9.0]]), mask)
    assert wide.out_of_band == 1.0  # e^-0.7 = 0.497 and e^0.7 = 2.01
    near = consistency(torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.7, -1.35, 9.0]]), mask)
    assert near.out_of_band == 0.5  # e^0.65 = 1.92

    def warns(largest: float, mean: float, precision: str) -> bool:
        return warn_if_inconsistent(Consistency(largest, mean), precision, 3)

    with caplog.at_level(logging.WARNING):
        assert not warns(1e-5, 1e-6, "float32")
        assert not warns(0.1, 0.02, "bfloat16")
        assert not caplog.records
        assert warns(0.1, 0.02, "float32")
    assert "update 3" in caplog.text
    assert "temperature" in caplog.text


@pytest.mark.parametrize(
    ("weight", "settings", "warned"),
    [
        (1000.0, {}, 1),
        (1.0, {}, 0),
        (1000.0, {"score_clip": 1.0}, 0),
        (1000.0, {"advantage": "grpo", "samples_per_prompt": 4}, 0),  # no values are learnt
    ],
)
def test_returns_whose_value_loss_would_drown_the_policys_are_warned_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    weight: float,
    settings: dict[str, Any],
    warned: int,
) -> None:
    """Once, in the first of two updates: with a reward of ten words the policy fell apart."""
    reward = RewardConfig(terms=[RewardTermConfig(name="rm", weight=weight)])
    config = replace(world.config(total_episodes=16, batch_size=8, **settings), reward=reward)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, config)
    said = [record.message for record in caplog.records if "root mean square" in record.message]
    assert len(said) == warned
    assert all(line.startswith("update 1: returns (=") for line in said)


# Prompts, keys, passages


def asked_of(size: int, seed: int = 3, samples: int = 1, episodes: int = 60) -> list[int]:
    return [
        number
        for update in range(1, episodes // size + 1)
        for number in batch_of(12, update, batch_size=size, samples_per_prompt=samples, seed=seed)
    ]


@pytest.mark.detail(44)
def test_every_epoch_asks_each_prompt_once() -> None:
    asked = asked_of(6)
    epochs = [asked[i : i + 12] for i in range(0, 60, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert asked != asked_of(6, seed=4)
    # Batches that do not divide the epoch, and batches longer than it, take the same endless row.
    for size in (5, 30):
        row = asked_of(size)
        assert row == asked[: len(row)]
    # Several responses to each prompt stand one behind the other.
    assert asked_of(6, samples=3, episodes=180) == [n for n in asked for _ in range(3)]


@pytest.mark.detail(44)
def test_sampling_keys_name_the_episode_and_not_its_place() -> None:
    keys = dict(zip("abc", sampling_keys(["a", "b", "c"], 0, 1), strict=True))
    assert sampling_keys(["c", "a", "b"], 0, 1) == [keys["c"], keys["a"], keys["b"]]
    twice = sampling_keys(["a", "b", "a"], 0, 1)
    assert twice[0] == keys["a"]
    assert len({*twice, *sampling_keys(["a"], 0, 2), *sampling_keys(["a"], 1, 1)}) == 5


class Echo:
    """A Retriever whose passages name the query's length."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        return [[Passage(f"{i}", "rain snow", 1.0, "d", 0, 9) for i in range(k)] for _ in queries]


class EchoIndex:
    """An index that must be opened on the run's device and searched by its method."""

    def retriever(self, method: str) -> Echo:
        assert method == "bm25"
        return Echo()


def open_echo(artifact: Artifact, runtime: RuntimeConfig) -> EchoIndex:
    assert runtime.device == "cpu"
    return EchoIndex()


def test_passages_reach_the_policy_and_the_file(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    inputs["index"] = Artifact.of(tmp_path, "index", opener=f"{__name__}:open_echo")
    retrieval = RetrievalConfig(share=0.5, num_passages=3, budget_tokens=5, method="bm25")
    finished = train(tmp_path, world.config(total_episodes=24, retrieval=retrieval), inputs)
    policy = policy_of(finished)
    by_id = {p.id: p for p in world.prompts()}
    given = {}
    for trajectory in (r.trajectory for r in finished.rollouts):
        for i, prompt_id in enumerate(trajectory.prompt_ids):
            passages = trajectory.passages[i]
            assert passages in ((), ("rain snow", "rain snow"))  # a third would break the budget
            assert given.setdefault(prompt_id, passages) == passages
            messages = by_id[prompt_id].messages
            assert trajectory.queries[i] == policy.encode(messages, passages)
    assert 0 < sum(bool(p) for p in given.values()) < len(given)


def test_a_prompt_is_tokenised_once_for_each_set_of_passages_that_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In reading, the probe, a rollout and the samples before and after together."""
    inputs = world.build(tmp_path)
    inputs["index"] = Artifact.of(tmp_path, "index", opener=f"{__name__}:open_echo")
    retrieval = RetrievalConfig(share=1.0, num_passages=3, budget_tokens=5, method="bm25")
    config = world.config(total_episodes=16, retrieval=retrieval, num_ppo_epochs=1, num_samples=2)
    calls = encoded_chats(monkeypatch)
    train(tmp_path, config, inputs)
    with_passages = [chat for chat in calls if any("rain snow" in turn.content for turn in chat)]
    assert len(with_passages) > 16
    assert len(calls) == len(set(calls))


def encoded_chats(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Message, ...]]:
    """Return a list that every chat which a policy tokenises is put into."""
    calls: list[tuple[Message, ...]] = []

    def counted(tokenizer, messages, generation_prompt=True):
        calls.append(tuple(messages))
        return encode_chat(tokenizer, messages, generation_prompt)

    monkeypatch.setattr("plumbrule.lm.policy.encode_chat", counted)
    return calls


@pytest.mark.detail(5)
def test_prompts_without_room_are_left_out_and_counted(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    long = Prompt("long", (Message("user", "red " * 80),))
    records = inputs["prompts"].path / "records.jsonl"
    write_records([*world.prompts(), long], records)
    finished = train(tmp_path, world.config(total_episodes=32), inputs)
    asked = {p for r in finished.rollouts for p in r.trajectory.prompt_ids}
    assert asked == {p.id for p in world.prompts()}
    assert json.loads((finished.out / "notes.json").read_text())[0].startswith("1 prompts")
    for none in ([long], []):
        write_records(none, records)
        with pytest.raises(DataError, match=rf"prompts \(={len(none)} rows\) must hold one"):
            run(world.config(), inputs, world.runtime(), tmp_path / "out", NullTracker())


# Rewards


@pytest.mark.detail(54)
def test_terms_are_weighed_and_logged_before_and_after(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    inputs["rm_1"] = inputs.pop("rm")
    inputs["rm_2"] = replace(inputs["rm_1"], opener=f"{__name__}:open_half")
    reward = RewardConfig([RewardTermConfig("rm", 2.0), RewardTermConfig("constant", 0.25)])
    config = world.config(total_episodes=16, reward=reward, missing_eos_penalty=0.0)
    finished = train(tmp_path, config, inputs)
    rollout, row = finished.rollouts[0], finished.rows[0]
    texts = rollout.trajectory.texts
    shares = np.array([text.split().count(world.GOOD) / 5 for text in texts])
    # The mean of the word's reward and of one half; then 2 * mean + 0.25 * 1.
    assert rollout.terms["rm"].tolist() == pytest.approx((shares + 0.5) / 2)
    assert rollout.scores.tolist() == pytest.approx(shares + 0.5 + 0.25)
    assert row["reward/rm_raw"] == pytest.approx((shares.mean() + 0.5) / 2)
    assert row["reward/rm"] == pytest.approx(shares.mean() + 0.5)
    assert row["reward/rm/rm_2_raw"] == pytest.approx(0.5)
    assert row["reward/constant"] == pytest.approx(0.25)
    assert row["objective/scores_raw"] == pytest.approx(shares.mean() + 0.75)


class Half:
    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        return {"score": np.full(len(episodes), 0.5)}


def open_half(artifact: Artifact, runtime: RuntimeConfig) -> Half:
    return Half()


class Broken(Half):
    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        return {"score": np.array([math.nan if i == 2 else 0.0 for i in range(len(episodes))])}


def open_broken(artifact: Artifact, runtime: RuntimeConfig) -> Broken:
    return Broken()


def test_a_score_that_is_no_number_ends_the_run_and_keeps_the_rollout(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    inputs["rm"] = replace(inputs["rm"], opener=f"{__name__}:open_broken")
    with pytest.raises(TrainingError, match=r"reward term rm of update 1 .* row 2") as error:
        train(tmp_path, world.config(), inputs)
    kept = tmp_path / "out" / "checkpoints" / "failed-update-00001.parquet"
    assert str(kept) in str(error.value)
    assert math.isnan(float(parquet.read(kept, finite=False).scores[2]))


@pytest.mark.detail(22)
def test_whitened_rewards_keep_their_mean(tmp_path: Path) -> None:
    finished = train(tmp_path, world.config(total_episodes=16, whiten_rewards=True))
    rollout = finished.rollouts[0]
    mask = rollout.trajectory.action_mask
    plain = shape_rewards(rollout.scores, 0.02 * rollout.kl, mask, mask)
    assert float(masked_var(rollout.rewards, mask)) == pytest.approx(1.0, abs=1e-4)
    assert float(masked_mean(rollout.rewards, mask)) == pytest.approx(
        float(masked_mean(plain, mask)), abs=1e-6
    )


@pytest.mark.detail(13)
def test_a_reward_model_of_another_terminal_rule_is_refused(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    (inputs["rm"].path / "reward_stats.json").write_text(json.dumps({"append_terminal": False}))
    with pytest.raises(ConfigError, match=r"rm: append_terminal \(=False\) must be true"):
        train(tmp_path, world.config(), inputs)


def value_model_of(config: PPOConfig, inputs: dict[str, Artifact]) -> object:
    return make_value_model(config, load_actors(config, inputs, torch.device("cpu")), inputs)


def test_terms_need_their_inputs(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    del inputs["rm"]
    with pytest.raises(ConfigError, match="must not name rm without an rm input"):
        train(tmp_path, world.config(), inputs)
    with pytest.raises(ConfigError, match=r"ppo.value_init \(=rm\) must be policy"):
        value_model_of(world.config(value_init="rm"), inputs)


# The value model


@pytest.mark.detail(33)
@pytest.mark.detail(34)
def test_value_models_begin_at_zero_or_at_the_reward_models_score(tmp_path: Path) -> None:
    policy = world.tiny_policy(spread=0.5)
    trajectory = world.recorded(world.learner_of(world.config()), gaps=False).trajectory
    inputs = rows_for_model(trajectory, range(16), 0)
    with torch.no_grad():
        assert not value_from_policy(policy)(inputs.tokens, inputs.real_mask).any()
        stats = RewardStats(mean=0.3, std=2.0)
        reward_model = RewardModel(policy, stats, seed=1)
        row_mask = torch.zeros_like(inputs.real_mask)  # no part of the score reads the response
        raw = reward_model.scores(inputs.tokens, inputs.real_mask, row_mask)
        values = value_from_reward_model(reward_model)(inputs.tokens, inputs.real_mask)
    last = inputs.real_mask.sum(1) - 1
    assert torch.allclose(values.gather(1, last[:, None])[:, 0], (raw - 0.3) / 2.0, atol=1e-6)
    # The head that it starts from is N(0, 1 / sqrt(d + 1)): 400 heads of d = 16 weights.
    heads = torch.stack([RewardModel(policy, seed=s).head.weight for s in range(400)])
    assert float(heads.detach().std()) == pytest.approx(1 / math.sqrt(17), rel=0.03)


@pytest.mark.detail(34)
@pytest.mark.detail(46)
def test_a_run_from_the_reward_model_trains_a_copy_of_it(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    reward_model = RewardModel(world.tiny_policy(seed=5), RewardStats(), seed=2)
    reward_model.save(inputs["rm"].path)
    inputs["rm"] = replace(inputs["rm"], opener="rlhf.reward_model.model:open_reward")
    finished = train(tmp_path, world.config(total_episodes=32, value_init="rm"), inputs)
    first = finished.rollouts[0]
    rows = rows_for_model(first.trajectory, range(16), 0)
    expected = state_values(value_from_reward_model(reward_model), rows)
    assert torch.allclose(first.values, expected, atol=1e-6)
    trained = load_file(finished.out / "value" / "model.safetensors")
    assert not torch.equal(trained["head.weight"], reward_model.head.weight)


@pytest.mark.detail(46)
def test_a_reward_model_of_another_tokenizer_gives_no_value_model(tmp_path: Path) -> None:
    inputs = world.build(tmp_path)
    RewardModel(world.tiny_policy(), RewardStats()).save(inputs["rm"].path)
    file = inputs["rm"].path / "model" / "tokenizer.json"
    file.write_text(file.read_text().replace('"gold"', '"silver"'))
    with pytest.raises(ConfigError, match="has another tokenizer"):
        value_model_of(world.config(value_init="rm"), inputs)


def test_rows_are_padded_on_the_right_and_slots_find_their_columns() -> None:
    trajectory = Trajectory(
        prompt_ids=["a", "b"],
        passages=[(), ()],
        queries=[[5, 6, 7], [8]],
        responses=[[9], [10, 11, 12]],
        texts=["", ""],
        action_mask=torch.tensor([[True, False, False], [True, False, True]]),
        step_mask=torch.tensor([[True, False, False], [True, False, True]]),
        finished=torch.tensor([True, True]),
        rollout_logprobs=padded([[0.0], [0.0, 0.0, 0.0]], torch.float32),
    )
    rows = rows_for_model(trajectory, [0, 1], 0)
    assert rows.tokens.tolist() == [[5, 6, 7, 9], [8, 10, 11, 12]]
    assert rows.columns.tolist() == [[3, 0, 0], [1, 2, 3]]
    assert rows.target_mask.tolist() == [[False, False, False, True], [False, True, False, True]]
    alone = rows_for_model(trajectory, [0], 0)
    assert alone.columns.shape == (1, 1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_mini_batches", 3), ("kl", KLConfig), ("cliprange", 0.0), ("gamma", 1.1)],
)
def test_settings_out_of_range_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="must"):
        world.config(**{setting: value(coef=-1.0) if value is KLConfig else value})
