"""Stage eval_rm: files to metrics with a scorer and with a judge; resumed; bad inputs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from worlds.evaluation import SMALL, WORDS, read_lines

from eval.reward_models.config import RewardEvalConfig, RewardSetConfig, check_inputs
from eval.reward_models.judge import PairwiseJudge
from eval.reward_models.rankings import rankings_of
from eval.reward_models.stage import read_sets, run
from plumbrule.data.records import Message, Preference, write_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.loading import make_policy, new_model, save_policy, train_tokenizer
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker

RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=4)


def written(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A file of each form; the better answer has more words in all of them but one row."""
    best = [
        {
            "id": str(i),
            "prompt": f"Where was {i}?",
            "chosen": ["born in Bosk town"],
            "rejected": ["Arlen", "Bosk", "no"],
            "subset": "Math" if i % 2 else "Precise IF",
        }
        for i in range(6)
    ]
    pairs = [
        {
            "instruction": f"Where was {i}?",
            "input": "",
            "response1": "in Bosk" if i else "no",
            "response2": "Arlen" if i else "I do not know",
            "annotator1": 1,
            "annotator2": 1 if i else 2,
        }
        for i in range(6)
    ]
    return {
        "rewardbench2": written(tmp_path / "rb2.jsonl", best),
        "pandalm": written(tmp_path / "panda.jsonl", pairs),
    }


def config(files, **settings) -> RewardEvalConfig:
    sets = [RewardSetConfig(name, path) for name, path in files.items()]
    return RewardEvalConfig(sets=sets, **settings)


def words(folder: Path) -> dict[str, Artifact]:
    """A scorer of one point per word."""
    return {"rm": Artifact.of(folder, "rm", "worlds.evaluation:open_reward")}


def judge(folder: Path) -> dict[str, Artifact]:
    """A policy of random weights that reads the question and two answers of some words."""
    tokenizer = train_tokenizer(WORDS * 20, SMALL.vocab_size)
    model = new_model(dataclasses.replace(SMALL, context=300), tokenizer, 0)
    save_policy(make_policy(model, tokenizer, 300), folder / "model")
    return {"judge": Artifact.of(folder, "sft")}


def evaluated(config, inputs, out: Path):
    out.mkdir(parents=True, exist_ok=True)
    flat = run(config, inputs, RUNTIME, out, NullTracker())
    return flat, json.loads((out / "metrics.json").read_text())


def test_a_scorer_is_measured_on_every_set_beside_the_rules(files, tmp_path):
    flat, metrics = evaluated(config(files), words(tmp_path), tmp_path / "out")
    assert flat["eval_rm/rewardbench2_accuracy"] == 1.0
    assert metrics["rewardbench2"]["precise_if_accuracy"]["value"] == 1.0
    assert metrics["rewardbench2"]["accuracy_longer"]["value"] == 1.0
    # PandaLM: 5 pairs whose better answer has more words, of two people; of the sixth one says so.
    assert flat["eval_rm/pandalm_accuracy"] == pytest.approx(11 / 12)
    assert flat["eval_rm/pandalm_with_people"] == pytest.approx(11 / 12)
    assert flat["eval_rm/pandalm_among_people"] == pytest.approx(5 / 6)
    assert metrics["pandalm"]["accuracy"]["groups"] == 6
    assert metrics["pandalm"]["accuracy_first"]["value"] == pytest.approx(11 / 12)
    # words do not change where none is added, and a quotation mark is a word of every line
    assert metrics["rewardbench2"]["rewrite_padded_flips"]["value"] == 0.0
    assert metrics["rewardbench2"]["rewrite_quoted_after"]["value"] == 1.0
    rows = read_lines(tmp_path / "out" / "items" / "rewardbench2.jsonl")
    assert len(rows) == 6
    assert len(read_lines(tmp_path / "out" / "samples.jsonl")) == 8


def test_a_judge_is_asked_in_both_orders(files, tmp_path):
    inputs = judge(tmp_path / "judge")
    panda = {"pandalm": files["pandalm"]}
    flat, metrics = evaluated(config(panda, rewrites=False), inputs, tmp_path / "out")
    assert 0 <= flat["eval_rm/pandalm_first_share"] <= 1
    assert set(metrics["pandalm"]) >= {"accuracy", "contradicts", "with_people"}


class Always(PairwiseJudge):
    """A judge whose log-odds of the first answer are given."""

    def __init__(self, odds):
        self.odds = odds

    def _odds(self, pairs):
        return [self.odds] * len(pairs)


@pytest.mark.parametrize(
    ("odds", "preferred", "first", "contradicts"),
    [
        ((2.0, -1.0), 1.5, 0.5, 0),  # one answer, in both orders
        ((2.0, 2.0), 0.0, 1.0, 1),  # whatever stands first
        ((-1.0, -3.0), 1.0, 0.0, 1),  # whatever stands second, one more than the other
        ((0.0, 1.0), -0.5, 0.75, 0),
    ],
)
def test_what_a_judges_two_orders_come_to(odds, preferred, first, contradicts):
    ask = (Message("user", "Q?"),)
    rankings = rankings_of("s", [Preference("p", ask, ("a", "b"), (1, 2))])
    scores, (row,) = Always(odds).scores(rankings)
    assert scores == [[-preferred, preferred]]  # the pair is (answer 1, answer 0)
    assert row["first_share"] == first
    assert row["contradicts"] == contradicts


def test_a_ranking_that_a_judge_can_not_read_is_left_out_and_said(files, tmp_path):
    inputs = judge(tmp_path / "judge")
    long = {"instruction": "no " * 200, "response1": "a", "response2": "b", "annotator1": 1}
    lines = Path(files["pandalm"]).read_text() + json.dumps(long) + "\n"
    Path(files["pandalm"]).write_text(lines)
    panda = {"pandalm": files["pandalm"]}
    evaluated(config(panda, rewrites=False), inputs, tmp_path / "out")
    (note,) = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert note.startswith("pandalm: 1 of 13 rankings hold two answers that do not fit")


def test_a_killed_stage_scores_no_set_again(files, tmp_path, monkeypatch):
    from eval.reward_models import stage

    calls = []
    whole = stage.score_set

    def counted(name, *given):
        if name == "pandalm" and not calls.count("stop"):
            calls.append("stop")
            raise KeyboardInterrupt
        calls.append(name)
        return whole(name, *given)

    monkeypatch.setattr(stage, "score_set", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluated(config(files), words(tmp_path), tmp_path / "out")
    resumed, _ = evaluated(config(files), words(tmp_path), tmp_path / "out")
    assert calls == ["rewardbench2", "stop", "pandalm"]
    assert resumed == evaluated(config(files), words(tmp_path), tmp_path / "other")[0]


def test_held_out_preferences_of_the_graph_are_a_set_too(tmp_path):
    ask = (Message("user", "Q?"),)
    write_records([Preference("p", ask, ("a b", "c"), (1, 2))], tmp_path / "validation.jsonl")
    inputs = {**words(tmp_path), "preferences": Artifact.of(tmp_path, "data")}
    flat, _ = evaluated(RewardEvalConfig(rewrites=False), inputs, tmp_path / "out")
    assert flat["eval_rm/preferences_accuracy"] == 1.0


def test_rankings_without_an_order_are_counted(tmp_path):
    ask = (Message("user", "Q?"),)
    made = [Preference("p", ask, ("a b", "c"), (1, 2)), Preference("q", ask, ("x", "c"), (1, 1))]
    write_records(made, tmp_path / "validation.jsonl")
    inputs = {"preferences": Artifact.of(tmp_path, "data")}
    ((kept, notes),) = read_sets(RewardEvalConfig(), inputs).values()
    assert len(kept) == 1
    assert notes == ["preferences: 1 rankings order no pair and are left out."]
    write_records(made[1:], tmp_path / "validation.jsonl")
    with pytest.raises(DataError, match="set preferences must hold a ranking that orders two"):
        read_sets(RewardEvalConfig(), inputs)


def test_an_unknown_protocol_is_refused(tmp_path):
    ask = (Message("user", "Q?"),)
    made = [Preference("p", ask, ("a b", "c"), (1, 2), meta={"protocol": "vote"})]
    write_records(made, tmp_path / "validation.jsonl")
    with pytest.raises(DataError, match=r"meta.protocol \(='vote'\) must be one of best_of"):
        read_sets(RewardEvalConfig(), {"preferences": Artifact.of(tmp_path, "data")})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RewardSetConfig("rb3", "x"), r"eval_rm.sets.format \(=rb3\)"),
        (lambda: RewardSetConfig("llmbar", "x", "a b"), "eval_rm.sets.name"),
        (lambda: RewardSetConfig("llmbar"), r"eval_rm.sets.path \(=''\) must name a file"),
        (lambda: RewardSetConfig("llmbar", "x", max_rows=0), "eval_rm.sets.max_rows"),
        (lambda: RewardEvalConfig(num_rewritten=0), "eval_rm.num_rewritten"),
        (lambda: RewardEvalConfig(confidence=1.5), "eval_rm.confidence"),
        (
            lambda: RewardEvalConfig(sets=[RewardSetConfig("llmbar", "x")] * 2),
            r"eval_rm.sets \(=llmbar, llmbar\) must have names that differ",
        ),
    ],
)
def test_bad_settings(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def placed(config, *names) -> PlacedNode:
    return PlacedNode("eval_rm", "eval_rm", {n: PlacedNode(n, "rm", {}) for n in names}, config)


def test_a_node_tests_one_thing_on_something_that_can_be_read(files, tmp_path):
    check_inputs(placed(config(files), "rm"), RUNTIME)
    with pytest.raises(ConfigError, match=r"must hold either rm or judge"):
        check_inputs(placed(config(files), "rm", "judge"), RUNTIME)
    with pytest.raises(ConfigError, match=r"must hold either rm or judge"):
        check_inputs(placed(config(files)), RUNTIME)
    with pytest.raises(ConfigError, match=r"eval_rm.sets \(=\[\]\) must name a set"):
        check_inputs(placed(RewardEvalConfig(), "rm"), RUNTIME)
    with pytest.raises(DataError, match="nowhere"):
        check_inputs(placed(config({"llmbar": str(tmp_path / "nowhere")}), "rm"), RUNTIME)
    bad = written(tmp_path / "bad.jsonl", [{"input": "Q", "output_1": "a", "output_2": "b"}])
    with pytest.raises(DataError, match=r"bad.jsonl, row 1: label \(=None\) must be 1 or 2"):
        check_inputs(placed(config({"llmbar": bad}), "rm"), RUNTIME)


def test_a_set_that_is_called_as_an_input_is_refused(files, tmp_path):
    """Else the one would silently take the other's place."""
    sets = [RewardSetConfig("pandalm", files["pandalm"], name="preferences")]
    inputs = {"preferences": Artifact.of(tmp_path, "data")}
    with pytest.raises(DataError, match="must not be called preferences, as an input"):
        read_sets(RewardEvalConfig(sets=sets), inputs)
