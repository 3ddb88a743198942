"""Stage vote: several evaluations as one, by hand arithmetic; and what cannot be taken together."""

from __future__ import annotations

import json

import pytest

from eval.votes.config import VoteConfig, check_members
from eval.votes.stage import run
from plumbrule.errors import ConfigError, DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker

SIGNATURE = "multiple_choice:plumbrule 1|prompt:chat"


def choice(number, nats, answer=0, correct=1.0, lengths=(1, 2)):
    known = {"id": f"m{number}", "group": f"m{number}", "condition": "closed", "correct": correct}
    return {**known, "answer": answer, "nats": list(nats), "bytes": list(lengths)}


def opened(number, response, references=("Arlen",), f1=0.0, exact=0, condition="closed"):
    known = {"id": f"q{number}", "group": f"q{number}", "condition": condition}
    own = {"response": response, "references": list(references), "f1": f1, "exact_match": exact}
    return {**known, **own, "contains": exact}


def evaluation(folder, benchmark, rows, signature=SIGNATURE):
    (folder / "items").mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "items" / f"{benchmark}.jsonl").write_text(text, encoding="utf-8")
    metrics = {benchmark: {"closed": {"accuracy": {"value": 1.0, "signature": signature}}}}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return Artifact.of(folder, "eval")


def stage(tmp_path, benchmark, *tables, signatures=()):
    given = [*signatures, *[SIGNATURE] * len(tables)]
    inputs = {
        f"policy@seed={k}": evaluation(tmp_path / str(k), benchmark, rows, given[k])
        for k, rows in enumerate(tables)
    }
    out = tmp_path / "out"
    out.mkdir(parents=True, exist_ok=True)
    return run(VoteConfig(), inputs, RuntimeConfig(), out, NullTracker()), out


def test_log_likelihoods_are_averaged_and_choices_are_counted(tmp_path):
    # Question 0, right 0. Means -2.67 and -2, so the mean takes 1; per byte (1 and 2) -2.67 and -1.
    # Choices 0, 1, 0: the vote takes 0.
    # Question 1, right 1: every policy chooses 0; per byte (1 and 4) -1 and -0.67.
    tables = [
        [choice(0, (-1, -2)), choice(1, (-1, -2), 1, 0.0, (1, 4))],
        [choice(0, (-5, -1), correct=0.0), choice(1, (-1, -2), 1, 0.0, (1, 4))],
        [choice(0, (-2, -3)), choice(1, (-1, -4), 1, 0.0, (1, 4))],
    ]
    flat, out = stage(tmp_path, "multiple_choice", *tables)
    assert flat["vote/multiple_choice_mean_accuracy"] == 0.0
    assert flat["vote/multiple_choice_mean_accuracy_per_byte"] == 0.5
    assert flat["vote/multiple_choice_vote_accuracy"] == 0.5
    assert flat["vote/multiple_choice_members_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert flat["vote/multiple_choice_vote_gain"] == pytest.approx((1 / 3 + 0) / 2)
    assert flat["vote/multiple_choice_mean_gain"] == pytest.approx((-2 / 3 + 0) / 2)
    assert flat["vote/multiple_choice_vote_agreement"] == pytest.approx((2 / 3 + 1) / 2)
    assert flat["vote/multiple_choice_vote_tied"] == 0.0
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    number = metrics["multiple_choice"]["closed"]["mean_accuracy"]
    assert (number["n"], number["unit"], len(number["policies"])) == (2, "questions", 3)
    assert number["signature"] == f"vote of 3|{SIGNATURE}"


def test_a_tie_is_the_first_policys_and_is_counted(tmp_path):
    tables = [[choice(0, (-1, -2))], [choice(0, (-2, -1), correct=0.0)]]
    flat, _ = stage(tmp_path, "multiple_choice", *tables)
    assert flat["vote/multiple_choice_vote_accuracy"] == 1.0
    assert flat["vote/multiple_choice_vote_tied"] == 1.0
    flat, _ = stage(tmp_path / "swapped", "multiple_choice", *tables[::-1])
    assert flat["vote/multiple_choice_vote_accuracy"] == 0.0


def test_equally_likely_means_share_the_point(tmp_path):
    tables = [[choice(0, (-1, -2))], [choice(0, (-2, -1), correct=0.0)]]
    flat, _ = stage(tmp_path, "multiple_choice", *tables)
    assert flat["vote/multiple_choice_mean_accuracy"] == 0.5


def test_open_answers_are_counted_by_their_words(tmp_path):
    # "the Arlen." and "arlen" are one answer by SQuAD's normalisation; Bosk is outvoted.
    tables = [
        [opened(0, "Bosk"), opened(0, "x", condition="rag")],
        [opened(0, "the Arlen.", f1=1.0, exact=1), opened(0, "x", condition="rag")],
        [opened(0, "arlen", f1=1.0, exact=1), opened(0, "x", condition="rag")],
    ]
    flat, out = stage(tmp_path, "open_qa", *tables)
    assert flat["vote/open_qa_vote_exact_match"] == flat["vote/open_qa_vote_f1"] == 1.0
    assert flat["vote/open_qa_members_f1"] == pytest.approx(2 / 3)
    assert flat["vote/open_qa_vote_gain"] == pytest.approx(1 / 3)
    assert flat["vote/open_qa_vote_agreement"] == pytest.approx(2 / 3)
    assert flat["vote/open_qa_vote_exact_match_rag"] == 0.0
    assert flat["vote/open_qa_vote_agreement_rag"] == 1.0
    rows = [json.loads(x) for x in (out / "items/open_qa.jsonl").read_text("utf-8").splitlines()]
    assert rows[0]["response"] == "the Arlen."


def test_an_interval_is_over_questions(tmp_path):
    tables = [[choice(i, (-1, -2), correct=float(i % 2)) for i in range(20)] for _ in range(2)]
    stage(tmp_path, "multiple_choice", *tables)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    found = metrics["multiple_choice"]["closed"]["vote_gain"]
    assert found["groups"] == 20
    assert found["low"] < found["value"] == 0.5 < found["high"]


def test_evaluations_that_are_not_alike_are_refused(tmp_path):
    one, other = [choice(0, (-1, -2))], [choice(1, (-1, -2))]
    with pytest.raises(DataError, match="2 questions of multiple_choice stand in one evaluation"):
        stage(tmp_path / "1", "multiple_choice", one, other)
    moved = [choice(0, (-1, -2), answer=1)]
    with pytest.raises(DataError, match="'m0' must be the same question in each evaluation"):
        stage(tmp_path / "2", "multiple_choice", one, moved)
    with pytest.raises(DataError, match="evaluations must ask alike, and are 'a' and 'b'"):
        stage(tmp_path / "3", "multiple_choice", one, one, signatures=("a", "b"))
    old = [{k: v for k, v in one[0].items() if k != "nats"}]
    with pytest.raises(DataError, match="rows must hold nats; evaluate the policy again"):
        stage(tmp_path / "4", "multiple_choice", old, one)
    with pytest.raises(DataError, match="must all hold multiple_choice or open_qa"):
        stage(tmp_path / "5", "bold", one, one)
    with pytest.raises(DataError, match="must be at least two"):
        stage(tmp_path / "6", "multiple_choice", one)


def test_a_node_takes_two_evaluations():
    with pytest.raises(ConfigError, match=r"inputs of node vote .* must be at least two"):
        check_members(PlacedNode("vote", "vote", {"policy": None}), RuntimeConfig())
    with pytest.raises(ConfigError, match=r"vote.confidence \(=1.0"):
        VoteConfig(confidence=1.0)
