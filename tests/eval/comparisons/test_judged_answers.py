"""Stage win_rate: verdicts by a judge and by a scorer, answers side by side, and bad inputs."""

from __future__ import annotations

import dataclasses
import json

import pytest
from comparisons_world import inputs, prompt, row
from worlds.evaluation import SMALL, WORDS, read_lines

from eval.comparisons.config import WinRateConfig
from eval.comparisons.judged_answers import Answers, judged, notes_on, run
from eval.reward_models.judge import PairwiseJudge
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.loading import make_policy, new_model, save_policy, train_tokenizer
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker

RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=4)


def answers(*pairs):
    return [Answers(prompt(i), row(i, old), row(i, new)) for i, (old, new) in enumerate(pairs)]


def scorer(tmp_path):
    """A scorer of one point per word."""
    return {"rm": Artifact.of(tmp_path, "rm", "worlds.evaluation:open_reward")}


def stage(given, out, **settings):
    out.mkdir()
    return run(WinRateConfig(**settings), given, RUNTIME, out, NullTracker())


class Given(PairwiseJudge):
    """A judge whose log-odds of the first answer are given: (baseline first, policy first)."""

    def __init__(self, odds, fits=True):
        self.given, self.all_fit = list(odds), fits

    def fits(self, ranking):
        return self.all_fit

    def _odds(self, pairs):
        return self.given[: len(pairs)]


@pytest.mark.parametrize(
    ("odds", "win", "first", "contradicts"),
    [
        ((-2.0, 1.0), 1.0, 0.5, 0),  # the policy's answer, wherever it stands
        ((2.0, -1.0), 0.0, 0.5, 0),
        ((3.0, 1.0), 0.5, 1.0, 1),  # whatever stands first: no verdict, though 3 > 1
        ((-3.0, -1.0), 0.5, 0.0, 1),
        ((0.0, 0.0), 0.5, 0.5, 0),
        ((0.0, 1.0), 1.0, 0.75, 0),
    ],
)
def test_a_verdict_needs_both_orders(odds, win, first, contradicts):
    rows, orders, notes = judged(answers(("no", "in Bosk")), Given([odds]))
    assert (rows[0]["win"], rows[0]["tie"]) == (win, int(win == 0.5))
    assert (orders[0]["first_share"], orders[0]["contradicts"]) == (first, contradicts)
    assert notes == []


def test_equal_answers_are_a_tie_that_nobody_is_asked_about():
    given = answers(("no", "no"), ("no", "in Bosk"))
    rows, orders, _ = judged(given, Given([(-1.0, 1.0)]))
    assert [one["win"] for one in rows] == [0.5, 1.0]
    assert len(orders) == 1
    assert notes_on(given) == ["1 of 2 pairs of answers are equal: ties."]
    assert judged(given[:1], Given([]))[0][0]["tie"] == 1


def test_answers_that_do_not_fit_are_counted_or_refused():
    with pytest.raises(DataError, match="none of 1 pairs of answers fits the judge's context"):
        judged(answers(("no", "in Bosk")), Given([], fits=False))
    rows, _, notes = judged(answers(("no", "no"), ("a", "a")), Given([], fits=False))
    assert (len(rows), notes) == (2, [])


def test_different_passages_are_not_shown_to_a_judge():
    one = Answers(prompt(0), row(0, "no", passages=["x"]), row(0, "yes", passages=["y"]))
    assert one.passages == ()
    assert "1 of 1 pairs were given different passages" in notes_on([one])[0]
    same = one._replace(policy=row(0, "yes", passages=["x"]))
    assert same.passages == ("x",)


def test_a_scorer_decides_by_its_scores(tmp_path):
    before = [row(0, "one two"), row(1, "one"), row(2, "one"), row(0, "a b", "rag")]
    after = [row(0, "one"), row(1, "one two"), row(2, "word"), row(0, "a b c", "rag")]
    flat = stage(inputs(tmp_path, before, after, **scorer(tmp_path)), tmp_path / "out")
    # Loss, win, tie; under rag a win: (0 + 1 + 1/2 + 1) / 4.
    assert flat["ppo/rm_win_rate"] == 0.625
    assert flat["ppo/rm_win_rate_closed"] == 0.5
    assert flat["ppo/rm_win_rate_ties"] == 0.25
    assert "ppo/judge_win_rate" not in flat
    rows = read_lines(tmp_path / "out" / "items" / "rm.jsonl")
    assert (rows[0]["baseline"], rows[0]["policy"], rows[0]["win"]) == (2.0, 1.0, 0.0)
    shown = read_lines(tmp_path / "out" / "samples.jsonl")[1]
    assert (shown["baseline"], shown["response"], shown["rm_win"]) == ("one", "one two", 1.0)
    rates = json.loads((tmp_path / "out" / "win_rates.json").read_text())
    assert [(one["what"], one["condition"]) for one in rates] == [
        ("rm_win_rate", condition) for condition in ("all", "closed", "rag")
    ]


def test_a_policy_of_random_weights_judges(tmp_path):
    tokenizer = train_tokenizer(WORDS * 20, SMALL.vocab_size)
    model = new_model(dataclasses.replace(SMALL, context=300), tokenizer, 0)
    save_policy(make_policy(model, tokenizer, 300), tmp_path / "judge" / "model")
    judge = {"judge": Artifact.of(tmp_path / "judge", "sft")}
    before, after = ([row(i, f"{text} {i}") for i in range(4)] for text in ("no", "in Bosk"))
    given = inputs(tmp_path, before, after, **judge)
    flat = stage(given, tmp_path / "out", max_prompts=3)
    rows = read_lines(tmp_path / "out" / "items" / "judge.jsonl")
    assert len(rows) == 3
    assert flat["ppo/judge_win_rate"] == pytest.approx(sum(r["win"] for r in rows) / 3)
    assert flat["ppo/judge_contradicts"] == pytest.approx(sum(r["tie"] for r in rows) / 3)
    # The other way round: the same judge, so the same verdicts of the other side.
    swapped = {**given, "baseline": given["policy"], "policy": given["baseline"]}
    other = stage(swapped, tmp_path / "swapped", max_prompts=3)
    assert other["sft/judge_win_rate"] == pytest.approx(1 - flat["ppo/judge_win_rate"])
    assert other["sft/judge_first_share"] == flat["ppo/judge_first_share"]


def test_bad_inputs_are_refused(tmp_path):
    good = [row(0, "one")]
    lost = inputs(tmp_path / "1", [row(9, "one")], [row(9, "two")], **scorer(tmp_path))
    with pytest.raises(DataError, match="prompt 'p9' and 0 others were answered and are missing"):
        stage(lost, tmp_path / "out1")
    bare = [{name: x for name, x in good[0].items() if name != "response"}]
    with pytest.raises(DataError, match="rows must hold the response; evaluate the policy again"):
        stage(inputs(tmp_path / "2", bare, good, **scorer(tmp_path)), tmp_path / "out2")
    other = inputs(tmp_path / "3", good, [row(1, "one")], **scorer(tmp_path))
    with pytest.raises(DataError, match="2 items stand in one evaluation only"):
        stage(other, tmp_path / "out3")
    (tmp_path / "3" / "b" / "items" / "prompts.jsonl").unlink()
    with pytest.raises(DataError, match="input policy must hold answers to held-out prompts"):
        stage(other, tmp_path / "out4")
    with pytest.raises(ConfigError, match=r"win_rate\.max_prompts \(=0 prompts\)"):
        WinRateConfig(max_prompts=0)
