"""Answers of a policy that searches: sampled in turns, scored with what each was shown, chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from worlds import ppo as world
from worlds import tiny_models
from worlds.trackers import Stopped

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Demonstration, read_records
from plumbrule.errors import ConfigError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.demonstrations import encode_demonstrations
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.loading import load_policy
from plumbrule.lm.policy import SearchForm
from plumbrule.lm.randomness import row_key
from plumbrule.pipeline.checks import check_fit
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.best_of_n import reject_stage
from rlhf.best_of_n import stage as best_of_n
from rlhf.best_of_n.config import BestOfNConfig, RejectConfig
from rlhf.dpo.config import DPOConfig
from rlhf.feedback import sampling, stage
from rlhf.feedback.config import FeedbackConfig, check_inputs
from rlhf.preference_checks import require_one_set_of_passages
from rlhf.rewards.config import RewardConfig, RewardTermConfig
from rlhf.rewards.scored_answers import read_answers

SEARCH = world.SEARCHES["search"]
CONFIG = FeedbackConfig(
    num_responses=6,
    sampling=SamplingConfig(max_new_tokens=12, batch_size=16),
    search=SEARCH,  # type: ignore[arg-type]
)
REWARD = RewardConfig([RewardTermConfig("search_format")])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return world.build(tmp_path_factory.mktemp("searching-answers"), seed=1, spread=0.1)


@pytest.fixture(scope="module")
def samples(inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("samples")
    metrics = stage.run(CONFIG, inputs, world.runtime(), out, NullTracker())
    assert metrics["feedback/search_calls"] > 0.2
    assert metrics["feedback/search_malformed"] > 0
    return out


def test_answers_are_those_of_the_sampler_of_ppo_and_eval(inputs, samples: Path) -> None:
    """The same turns by key, each with its own passages."""
    policy = load_policy(inputs["policy"].file("model"))
    rows = [row for _, row in read_rows(samples / "samples.jsonl")]
    prompts = {p.id: p for p in world.prompts() + world.prompts(4)}
    found = Searcher(world.WordIndex(), SEARCH).answer(  # type: ignore[arg-type]
        policy,
        [policy.encode(prompts[row["id"]].messages) for row in rows],
        sampling=CONFIG.sampling,
        keys=[row_key("feedback", CONFIG.seed, row["id"], row["sample"]) for row in rows],
    )
    assert sum(len(one.searching.calls) for one in found) > 5
    for row, one in zip(rows, found, strict=True):
        assert row["searching"] == json.loads(json.dumps(one.searching))
        assert row["response"] == policy.decode(one.last_turn)
        assert row["logprob"] == pytest.approx(sum(one.sample.logprobs), abs=1e-3)


def test_rewards_see_the_turns_and_passages_of_each_answer(samples: Path) -> None:
    found = 0
    for prompt in read_answers(samples / "samples.jsonl", "train"):
        assert prompt.searching is not None
        for episode, searching in zip(prompt.episodes(), prompt.searching, strict=True):
            assert episode.searching == searching
            assert searching is not None
            assert episode.passages == searching.passages
            found += bool(searching.passages)
    assert found > 3


def test_best_of_n_and_reject_score_searches(inputs, samples: Path, tmp_path: Path) -> None:
    """A chosen answer with calls becomes a demonstration whose turns are encoded with a mask; none
    with a call that did not work is chosen.
    """
    path = tmp_path / "mended"
    path.mkdir()
    rows = [{**row, "finished": True} for _, row in read_rows(samples / "samples.jsonl")]
    (path / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    given = {"samples": Artifact.of(path, "feedback")}
    for name in ("curve", "kept"):
        (tmp_path / name).mkdir()
    metrics = best_of_n.run(
        BestOfNConfig(reward=REWARD), given, world.runtime(), tmp_path / "curve", NullTracker()
    )
    assert metrics["best_of_n/reward_gain"] > 0.05
    reject_stage.run(
        RejectConfig(reward=REWARD, keep=6),
        given,
        world.runtime(),
        tmp_path / "kept",
        NullTracker(),
    )
    kept = read_records(Demonstration, tmp_path / "kept" / "records.jsonl")
    worked = {
        (row["id"], row["response"])
        for row in rows
        if not row["searching"][2] and not row["searching"][3]
    }
    assert worked
    assert {(d.id.rpartition("/")[0], d.response) for d in kept} <= worked
    searched = [d for d in kept if d.searches]
    assert searched
    policy = tiny_models.policy()  # whose tokenizer knows all letters
    form = SearchForm(SEARCH.open, SEARCH.close, SEARCH.template)  # type: ignore[attr-defined]
    policy.spec = replace(policy.spec, search_form=form, context=400)
    for row in encode_demonstrations(policy, searched).rows:
        assert row.action_mask is not None
        assert not all(row.action_mask)


def test_a_stopped_run_ends_with_the_same_bytes(
    inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "CHUNK_PROMPTS", 3)
    whole, out = tmp_path / "whole", tmp_path / "out"
    for folder in (whole, out):
        folder.mkdir()
    stage.run(CONFIG, inputs, world.runtime(), whole, NullTracker())
    real, calls = sampling.sample_chunk, []

    def stops(*args):
        calls.append(args)
        if len(calls) == 2:
            raise Stopped
        return real(*args)

    monkeypatch.setattr(sampling, "sample_chunk", stops)
    with pytest.raises(Stopped):
        stage.run(CONFIG, inputs, world.runtime(), out, NullTracker())
    stage.run(CONFIG, inputs, world.runtime(), out, NullTracker())
    for name in ("samples.jsonl", "records.jsonl", "validation.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_what_cannot_be_right_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"feedback.labeller \(=judge\) must be gold or rm with"):
        replace(CONFIG, labeller="judge")
    node = PlacedNode("feedback", "feedback", {}, CONFIG)
    with pytest.raises(ConfigError, match=r"feedback.search.max_turns \(=3 turns\) must be 1 whe"):
        check_inputs(node, world.runtime())
    given = replace(node, inputs={"index": PlacedNode("index", "index", {})})
    check_inputs(given, world.runtime())
    check_fit(given, 36)  # 12 sampled tokens, two answers of 8, and 8 for a prompt
    with pytest.raises(ConfigError, match="with 16 tokens of passages"):
        check_fit(given, 35)
    learner = PlacedNode("dpo", "dpo", {"preferences": given}, DPOConfig())
    with pytest.raises(ConfigError, match="be 1 where node dpo learns from the rankings: each ans"):
        require_one_set_of_passages(learner, world.runtime())
    plain = replace(given, config=FeedbackConfig())
    require_one_set_of_passages(replace(learner, inputs={"preferences": plain}), world.runtime())


def test_without_searching_a_row_has_the_columns_that_it_had(inputs, tmp_path: Path) -> None:
    plain = FeedbackConfig(num_responses=2, sampling=SamplingConfig(max_new_tokens=4))
    stage.run(plain, inputs, world.runtime(), tmp_path, NullTracker())
    assert not {"searching", "searches"} & set(next(read_rows(tmp_path / "samples.jsonl"))[1])
    assert np.isfinite(next(read_rows(tmp_path / "samples.jsonl"))[1]["logprob"])
