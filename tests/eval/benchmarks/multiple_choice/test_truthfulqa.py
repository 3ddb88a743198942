"""TruthfulQA's three scores by hand, from a policy, and from the released file."""

from __future__ import annotations

import dataclasses
import math

import pytest
from places import SHARED
from worlds.evaluation import small_config, small_policy

from eval.benchmarks.multiple_choice.likelihood import ScoredChoice, score_choices, top_share
from eval.benchmarks.multiple_choice.truthfulqa import (
    BENCHMARK,
    answers_of,
    asked,
    measure,
    quantities,
    scores_of,
    summarise,
)
from eval.benchmarks.subject import Subject
from eval.intervals import Intervals
from plumbrule.data.readers import read
from plumbrule.data.records import BenchmarkItem, Message
from plumbrule.errors import DataError
from plumbrule.lm.response_logprobs import response_logprobs, token_row
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker

REAL = SHARED / "data" / "truthfulqa" / "data"


def item(id="t", question="Can pigs fly?", **sets):
    fields = {
        "question": question,
        "mc1": {"No": 1, "Yes": 0},
        "mc2": {"No": 1, "They have no wings": 1, "Yes": 0},
    }
    return BenchmarkItem(id, "truthfulqa", fields | sets)


def subject(policy, **settings):
    runtime = RuntimeConfig(device="cpu", micro_batch_size=3)
    return Subject(policy, None, None, small_config(**settings), runtime, NullTracker())


def choice(nats, tokens=1, num_bytes=1):
    return ScoredChoice(nats, tokens, num_bytes)


def test_scores_by_hand():
    # mc1: the true answer has -1, the wrong ones -2 and -3: right. mc0: -1 against -0.5: wrong.
    # mc2: (e^-1 + e^-4) / (e^-1 + e^-4 + e^-2) = 0.38620 / 0.52153 = 0.74051.
    # Per byte: -1/4 = -0.25 against -2/10 = -0.2 and -3/3 = -1: the wrong one is likelier.
    of_text = {
        "true": choice(-1.0, 2, 4),
        "also true": choice(-4.0),
        "wrong answer": choice(-2.0, 5, 10),
        "no!": choice(-3.0, 1, 3),
        "near": choice(-0.5),
    }
    sets = {
        "mc0": {"true": True, "near": False},
        "mc1": {"wrong answer": False, "true": True, "no!": False},
        "mc2": {"true": True, "also true": True, "wrong answer": False},
    }
    found = scores_of(sets, of_text)
    assert found["mc1"] == 1
    assert found["mc0"] == 0
    assert found["mc1_per_byte"] == 0.0
    assert found["mc2"] == pytest.approx(0.74051, abs=1e-5)
    assert found["mc1_chance"] == pytest.approx(1 / 3)
    assert found["mc2_chance"] == pytest.approx(2 / 3)
    assert found["mc1_rule_longest"] == 0.0


def test_a_true_answer_that_ties_with_a_wrong_one_is_not_the_likeliest():
    of_text = {"a": choice(-1.0), "b": choice(-1.0)}
    one = {"a": True, "b": False}
    assert scores_of({"mc1": one, "mc2": one}, of_text)["mc1"] == 0


def test_mc2_of_answers_too_unlikely_for_a_float():
    # exp(-2000) is 0 in float64; the share is that of e^0 to e^0 + e^-1.
    of_text = {"a": choice(-2000.0), "b": choice(-2001.0)}
    one = {"a": True, "b": False}
    found = scores_of({"mc1": one, "mc2": one}, of_text)
    assert found["mc2"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_ties_share_the_point():
    assert top_share([1.0, 3.0, 3.0], 2) == 0.5
    assert top_share([1.0, 3.0, 2.0], 2) == 0.0
    assert top_share([1.0, 3.0, 2.0], 1) == 1.0


def test_answers_are_scored_whole_without_a_terminal_token():
    """Against the one function that scores responses, one row at a time."""
    policy = small_policy()
    texts = [["Arlen", "born in Bosk"], ["No"]]
    found, notes = score_choices(subject(policy), ["Where?", "Is it?"], texts, "x")
    assert notes == []
    for place, question in enumerate(("Where?", "Is it?")):
        for scored, text in zip(found[place], texts[place], strict=True):
            row = token_row(policy, (Message("user", question),), (), text, terminal=False)
            assert scored.nats == pytest.approx(
                response_logprobs(policy, [row], 1).item(), abs=1e-4
            )
            assert scored.tokens == len(row.response)
            assert scored.bytes == len(text)
            assert scored.per_token == scored.nats / len(row.response)


def test_plain_puts_the_answer_behind_an_a_and_no_template():
    policy = small_policy()
    found, _ = score_choices(subject(policy, choice_prompt="plain"), ["Where?"], [["Arlen"]], "x")
    tokenizer = policy.tokenizer
    prompt = tokenizer.encode("Q: Where?\nA:", add_special_tokens=False)
    row = token_row(policy, (Message("user", "x"),), (), "x", terminal=False)
    row = row._replace(
        prompt=(tokenizer.bos_token_id, *prompt),
        response=tuple(tokenizer.encode(" Arlen", add_special_tokens=False)),
    )
    assert found[0][0].nats == pytest.approx(response_logprobs(policy, [row], 1).item(), abs=1e-4)


def test_a_question_with_an_answer_that_is_too_long_is_left_out_whole():
    long = {"No": 1, "yes " * 200: 0}
    measured = measure(
        [item("a"), item("b", mc1=long, mc2=long)], "closed", subject(small_policy())
    )
    assert [row["id"] for row in measured.items] == ["a"]
    assert "1 of 2 items are longer than 96 tokens" in measured.notes[0]


def test_a_measured_policy_has_metrics_with_intervals():
    items = [item(f"t{i}", f"Can pig {i} fly?") for i in range(8)]
    measured = measure(items, "closed", subject(small_policy()))
    metrics = summarise(measured.items, Intervals(0.95, 100, 0))
    assert set(metrics) == set(BENCHMARK.metrics) - {"mc0"}
    assert metrics["mc1"].n == 8
    assert metrics["mc1_chance"].value == 0.5
    assert {q.name for q in quantities(measured.items)} == {
        "truthfulqa_mc1_change",
        "truthfulqa_mc2_change",
    }
    assert len(measured.samples) == 2


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ({"mc1": {"No": 1}}, "mc1 .1 of 1 answers true. must have one true answer and a false"),
        ({"mc1": {"No": 1, "Never": 1, "Yes": 0}}, "mc1 .2 of 3 answers true. must have one true"),
        ({"mc2": {"No": 0, "Yes": 0}}, "mc2 .0 of 2 answers true. must have a true answer"),
        ({"mc1": ["No"]}, "mc1 .* must be an object of answers with 0 or 1"),
        ({"mc2": {"No": 2, "Yes": 0}}, "mc2 .* must be an object of answers with 0 or 1"),
        ({"mc0": {"": 1, "Yes": 0}}, "mc0 .* must be an object of answers with 0 or 1"),
        ({"question": " "}, "item 't' must have a question"),
    ],
)
def test_a_bad_item_is_refused_before_any_work(sets, says):
    with pytest.raises(DataError, match=says):
        asked([item(**sets) if "question" not in sets else item(question=" ")], small_config())


def test_an_item_without_mc0_has_none():
    assert answers_of(item(), "mc0") == {}


@pytest.mark.parametrize(("file", "n", "chance"), [("v1/", 817, 0.22251), ("", 790, 0.22348)])
def test_the_released_files(file, n, chance):
    """Counts and chance are those of the files, taken by another script; without answers without
    text, of which the later file has some in 22 questions.
    """
    path = REAL / f"{file}mc_task.json"
    if not path.is_file():
        pytest.skip(f"the released file is not at ../shared/data/truthfulqa/data/{file}")
    rows = list(read("truthfulqa", "truthfulqa", path, BENCHMARK.items))
    items = [row.record for row in rows]
    assert sum(bool(row.conversions) for row in rows) == (22 if n == 790 else 0)
    assert len(items) == n
    assert len(asked(items, small_config())) == n
    assert sum(1 / len(i.fields["mc1"]) for i in items) / n == pytest.approx(chance, abs=1e-5)
    assert all(("mc0" in i.fields) == (n == 790) for i in items)


def test_a_sample_shows_the_likeliest_answer_of_mc1():
    policy = small_policy()
    one = item(mc1={"Arlen": 1, "Bosk": 0}, mc2={"Arlen": 1, "Bosk": 0})
    measured = measure([one], "closed", subject(policy))
    expected = "Arlen" if measured.items[0]["mc1"] else "Bosk"
    assert measured.samples[0]["response"] == expected
    swapped = dataclasses.replace(
        one, fields=one.fields | {"mc1": {"Arlen": 0, "Bosk": 1}, "mc2": {"Arlen": 0, "Bosk": 1}}
    )
    other = measure([swapped], "closed", subject(policy))
    assert other.items[0]["mc1"] == 1 - measured.items[0]["mc1"]
    assert other.items[0]["mc2"] == pytest.approx(1 - measured.items[0]["mc2"])
