import json
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from worlds.rankings import (
    WORDS,
    chat,
    rankings_of,
    saved_policy,
    saved_prompts,
    saved_rankings,
    tiny_policy,
)
from worlds.stages import CPU, run_stage
from worlds.stages import small_rm as small
from worlds.trackers import Stopped, StoppingTracker

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Preference, Prompt, read_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm import adapters
from plumbrule.lm.config import AdapterConfig, SamplingConfig
from plumbrule.lm.cost_metrics import num_weights
from plumbrule.lm.loading import load_policy
from plumbrule.protocols import Episode
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.feedback import stage as feedback
from rlhf.feedback.config import FeedbackConfig
from rlhf.reward_model import stage as rm
from rlhf.reward_model.model import RewardModel, load_reward_model, open_reward
from rlhf.reward_model.rows import TokenizedAnswer

build = partial(run_stage, rm.run)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return rankings_of(tmp_path_factory.mktemp("rm-inputs"))


def weights(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("model/model.safetensors", "head.safetensors")]


def card(out: Path) -> dict:
    return json.loads((out / "report_card.json").read_text("utf-8"))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_learns_a_separable_world(tmp_path, seed):
    given = rankings_of(tmp_path, num_train=150, num_held_out=50, seed=seed)
    metrics = build(small(seed=seed, num_train_epochs=3.0), given, tmp_path / "out")
    assert metrics["rm/accuracy"] > 0.9
    assert metrics["rm/accuracy_low"] > 0.85
    assert metrics["rm/loss"] < 0.3
    assert metrics["rm/pairs"] == 450  # 3 answers, so 3 pairs, of 150 prompts
    assert card(tmp_path / "out")["accuracy"]["n"] == 150
    assert card(tmp_path / "out")["rules"]["longer"]["value"] == 0.5  # all answers have 3 words


def test_resumed_equals_uninterrupted(given, tmp_path):
    config = small(batch_size=5, num_train_epochs=3.0, save_every=4)  # 20 rankings: 12 steps
    metrics = build(config, given, tmp_path / "whole")
    for at in (6, 11):
        with pytest.raises(Stopped):
            build(config, given, tmp_path / "killed", tracker=StoppingTracker(at))
    assert build(config, given, tmp_path / "killed") == metrics
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    for name in ("reward_stats.json", "report_card.json", "samples.jsonl"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_micro_batches_do_not_change_the_result(given, tmp_path):
    wide = build(small(), given, tmp_path / "wide")
    runtime = RuntimeConfig(device="cpu", micro_batch_size=3)
    narrow = build(small(), given, tmp_path / "narrow", runtime)
    assert narrow["rm/loss"] == pytest.approx(wide["rm/loss"], abs=1e-4)


def test_pairs_that_are_too_long_are_counted_and_said(tmp_path):
    given = rankings_of(tmp_path)
    path = given["preferences"].file("records.jsonl")
    rows = [row for _, row in read_rows(path)]
    rows[0]["responses"][0] = " ".join(WORDS * 30)  # in 2 of the ranking's 3 pairs
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tracker = StoppingTracker()
    metrics = build(small(num_train_epochs=0.2), given, tmp_path / "out", tracker=tracker)
    assert "(shortest, median, 95 %, longest); 2 pairs left out, longer than 96" in tracker.said[0]
    assert metrics["rm/pairs"] == 3 * 20 - 2
    assert metrics["rm/pairs_too_long"] == 2
    said = json.loads((tmp_path / "out" / "notes.json").read_text("utf-8"))
    assert said == ["2 pairs were left out: a prompt with its answer exceeds 96 tokens."]


@pytest.mark.parametrize("name", ["records.jsonl", "validation.jsonl"])
def test_a_split_without_pairs_is_an_error(tmp_path, name):
    given = rankings_of(tmp_path)
    given["preferences"].file(name).write_text("", "utf-8")
    with pytest.raises(DataError, match=f"{name}.*at least one pair"):
        build(small(), given, tmp_path / "out")


def test_max_tokens_limits_rows(given, tmp_path):
    with pytest.raises(DataError, match="must fit 9 tokens"):
        build(small(max_tokens=9), given, tmp_path)


def test_equal_responses_or_a_hole_in_ranks_are_refused_with_their_row(tmp_path):
    given = rankings_of(tmp_path)
    path = given["preferences"].file("records.jsonl")
    rows = [row for _, row in read_rows(path)]
    for broken, rule in (
        ({"responses": ["a", "a", "b"]}, "must differ"),
        ({"ranks": [1, 2, 4]}, "no hole"),
    ):
        lines = [*rows[:2], {**rows[2], **broken}, *rows[3:]]
        path.write_text("".join(json.dumps(row) + "\n" for row in lines), "utf-8")
        with pytest.raises(DataError, match=f"records.jsonl, row 3: .*{rule}"):
            build(small(), given, tmp_path / "out")


def test_a_margin_is_that_of_rank_one_over_rank_two(tmp_path):
    model = RewardModel(tiny_policy())
    folder = saved_rankings(tmp_path, 1, 0)
    (preference,) = read_records(rm.Preference, folder / "records.jsonl")
    stated = rm.dataclasses.replace(preference, margin=0.7)
    rows = rm.encode_answers(model, stated)
    ranking = rm.fitting(stated, rows, 96)
    margins = dict(zip(ranking.pairs, ranking.margins, strict=True))
    assert margins[stated.ranks.index(1), stated.ranks.index(2)] == 0.7
    assert sorted(margins.values()) == [0.0, 0.0, 0.7]


def test_an_answer_that_does_not_fit_leaves_its_ranking():
    preference = Preference("p", chat("what is it?"), ("a", "b", "c", "d"), (3, 1, 2, 2))
    rows = [
        TokenizedAnswer((1, 2), 1),
        TokenizedAnswer((1,) * 9, 1),
        TokenizedAnswer((3, 4), 1),
        TokenizedAnswer((5, 6), 1),
    ]
    ranking = rm.fitting(preference, rows, 8)
    assert ranking.rows == (rows[0], rows[2], rows[3])
    assert ranking.ranks == (2, 1, 1)  # without the best one, and without holes
    assert sorted(ranking.pairs) == [(1, 0), (2, 0)]
    assert [(s.rows, s.pairs) for s in rm.split_up(ranking)] == [
        ((rows[2], rows[0]), ((0, 1),)),
        ((rows[3], rows[0]), ((0, 1),)),
    ]
    assert rm.fitting(preference, [rows[1]] * 3 + [rows[0]], 8) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "pairs"},
        {"loss": "plackett_luce"},
        {"label_smoothing": 0.1},
        {"noise_rate": 0.1},
        {"centring": 0.01},
        {"uses_token_logprobs": True},
        {"loss": "best_of_k"},
        {"loss": "plackett_luce", "top_k": 1},
        {"ties": "davidson"},
        {"loss": "pairs", "ties": "rao_kupper"},
        {"adapter": AdapterConfig(rank=4)},
    ],
)
def test_the_other_losses_learn_too(given, tmp_path, changes):
    """From a coin's half to nearly every held-out pair."""
    metrics = build(small(num_train_epochs=4.0, **changes), given, tmp_path)
    assert metrics["rm/accuracy"] > 0.75


def test_with_a_frozen_trunk_the_head_alone_learns(given, tmp_path):
    metrics = build(small(num_train_epochs=6.0, frozen_trunk=True), given, tmp_path)
    start = load_file(given["policy"].path / "model" / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(start[name], after[name]) for name in start)
    before = RewardModel(tiny_policy()).head.weight
    assert not torch.equal(load_file(tmp_path / "head.safetensors")["score.weight"], before)
    assert metrics["rm/accuracy"] > 0.55


def test_an_adapters_reward_model_is_saved_without_its_base_and_scores_alike(given, tmp_path):
    build(small(adapter=AdapterConfig(rank=2)), given, tmp_path)
    assert not (tmp_path / "model" / "model.safetensors").exists()
    shown = [row for _, row in read_rows(tmp_path / "samples.jsonl")]
    episodes = [Episode(Prompt("q", chat(r["prompt"])), (), r["response"], True) for r in shown]
    scorer = open_reward(Artifact.of(tmp_path, "rm"), runtime=CPU)
    wanted = [row["score"] for row in shown]
    assert scorer.score(episodes)["score"].tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 2}, r"rm.top_k \(=2\) must be null"),
        ({"top_k": 0, "loss": "plackett_luce"}, r"rm.top_k"),
        ({"ties": "never"}, r"rm.ties"),
        ({"ties": "davidson", "loss": "plackett_luce"}, r"rm.ties \(=davidson\) must be ignore"),
        ({"ties": "davidson", "noise_rate": 0.1}, r"rm.noise_rate"),
        ({"tie_rate": 1.0}, r"rm.tie_rate"),
        ({"frozen_trunk": True, "adapter": AdapterConfig(rank=2)}, r"rm.frozen_trunk"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        small(**settings)


def test_rankings_of_ties_alone_teach_where_ties_count():
    preference = Preference("p", chat("what is it?"), ("a", "b", "c"), (1, 1, 1))
    rows = [TokenizedAnswer((1, 2), 1), TokenizedAnswer((3, 4), 1), TokenizedAnswer((5, 6), 1)]
    assert rm.fitting(preference, rows, 8) is None
    ranking = rm.fitting(preference, rows, 8, with_ties=True)
    assert ranking.ties == ((0, 1), (0, 2), (1, 2))
    assert [s.ties for s in rm.split_up(ranking)] == [((0, 1),)] * 3


@pytest.mark.detail(13)
@pytest.mark.parametrize("append_terminal", [True, False])
def test_the_terminal_rule_is_recorded(given, tmp_path, append_terminal):
    build(small(num_train_epochs=0.3, append_terminal=append_terminal), given, tmp_path)
    stats = json.loads((tmp_path / "reward_stats.json").read_text("utf-8"))
    assert stats["append_terminal"] is append_terminal
    assert load_reward_model(tmp_path).append_terminal is append_terminal


@pytest.mark.detail(13)
def test_an_answer_cut_by_its_limit_has_no_terminal_token(tmp_path):
    folder = saved_rankings(tmp_path, 1, 0)
    (preference,) = read_records(rm.Preference, folder / "records.jsonl")
    cut = rm.dataclasses.replace(preference, finished=(True, False, True))
    model = RewardModel(tiny_policy())
    ends = [row.tokens[-1] == model.policy.terminal_id for row in rm.encode_answers(model, cut)]
    assert ends == [True, False, True]


@pytest.mark.detail(20)
def test_normalised_scores_of_the_policys_answers_have_mean_0_and_variance_1(tmp_path):
    policy = Artifact.of(saved_policy(tmp_path / "policy"), "sft")
    prompts = Artifact.of(saved_prompts(tmp_path / "prompts", 24, 8), "data")
    out = tmp_path / "feedback"
    out.mkdir()
    asked = FeedbackConfig(num_responses=3, sampling=SamplingConfig(max_new_tokens=4))
    feedback.run(asked, {"policy": policy, "prompts": prompts}, CPU, out, NullTracker())
    given = {"policy": policy, "preferences": Artifact.of(out, "feedback")}
    build(small(num_train_epochs=0.5), given, tmp_path / "rm")
    scorer = open_reward(Artifact.of(tmp_path / "rm", "rm"), runtime=CPU)
    first = [row for _, row in read_rows(out / "samples.jsonl") if row["sample"] == 0]
    episodes = [
        Episode(Prompt(r["id"], chat(r["prompt"])), (), r["response"], r["finished"]) for r in first
    ]
    scores = scorer.score(episodes)["score"]
    assert len(scores) == 32
    assert scores.mean() == pytest.approx(0.0, abs=1e-5)
    assert scores.var() == pytest.approx(1.0, abs=1e-5)


def test_samples_show_scored_answers(given, tmp_path):
    build(small(num_train_epochs=0.3), given, tmp_path)
    rows = [row for _, row in read_rows(tmp_path / "samples.jsonl")]
    assert len(rows) == 3 * 8
    assert {"id", "prompt", "passages", "response", "rank", "score"} == set(rows[0])
    assert all(math.isfinite(row["score"]) for row in rows)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"loss": "hinge"}, "rm.loss"),
        ({"label_smoothing": 0.5}, "rm.label_smoothing"),
        ({"noise_rate": 0.1, "label_smoothing": 0.1}, "rm.noise_rate"),
        ({"noise_rate": 0.1, "loss": "plackett_luce"}, "rm.noise_rate"),
        ({"centring": -1.0}, "rm.centring"),
    ],
)
def test_loss_settings_out_of_range_are_refused(changes, field):
    with pytest.raises(ConfigError, match=re.escape(field)):
        small(**changes)


def test_rounds_of_feedback_are_learned_from_together(tmp_path):
    given = rankings_of(tmp_path, 20, 8)
    more = saved_rankings(tmp_path / "more", 50, 20)  # 30 and 12 prompts that the first lacks
    rows = [json.loads(line) for line in (more / "records.jsonl").read_text("utf-8").splitlines()]
    fresh = [row for row in rows if int(row["id"][1:]) >= 28]
    (more / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in fresh), "utf-8")
    given["preferences_1"] = Artifact.of(more, "data")
    metrics = build(small(), given, tmp_path / "out")
    assert metrics["rm/pairs"] == (20 + len(fresh)) * 3
    assert card(tmp_path / "out")["num_prompts"] == 8 + 20


def test_a_held_out_prompt_that_another_input_trains_on_is_refused(tmp_path):
    given = rankings_of(tmp_path, 20, 8)
    given["preferences_1"] = Artifact.of(saved_rankings(tmp_path / "more", 24, 4), "data")
    with pytest.raises(DataError, match=r"4 held-out prompt\(s\), such as p20, must not be"):
        build(small(), given, tmp_path / "out")


@pytest.mark.parametrize("inherited", ["continue", "merge"])
def test_on_an_adapter_policy_the_trunk_learns_too(given, tmp_path, adapted, inherited):
    start = adapted(given["policy"].file("model"), tmp_path / "policy" / "model")
    given = {**given, "policy": Artifact.of(start.parent, "dpo")}
    config = small(adapter=AdapterConfig(inherited=inherited))
    metrics = build(config, given, tmp_path / "out")
    model = load_reward_model(tmp_path / "out")
    before, after = (dict(p.model.named_parameters()) for p in (load_policy(start), model.policy))
    if inherited == "merge":
        assert not adapters.has_adapter(model.policy)
        before = dict(adapters.merged(load_policy(start)).model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    wanted = [name for name in before if inherited == "merge" or "lora_" in name]
    assert moved == {name for name in wanted if "lm_head" not in name}
    # 4 FLOPs per weight and token where an adapter learns, 6 where all of it does
    read = num_weights(model.trunk) * (4 if inherited == "continue" else 6)
    assert metrics["cost/training_flops"] % read == 0
