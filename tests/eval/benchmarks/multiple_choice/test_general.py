"""Questions with given answers: which is chosen, by which length, and what needs no model."""

from __future__ import annotations

import math

import pytest
from worlds.evaluation import small_config, small_policy

from eval.benchmarks.multiple_choice.general import (
    BENCHMARK,
    SURENESS,
    asked,
    choices_of,
    measure,
    probability_of_likeliest,
    summarise,
    sureness,
)
from eval.benchmarks.subject import Subject
from eval.intervals import Intervals
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker


def item(id="m", choices=("Arlen", "in the town of Bosk"), answer=0, **meta):
    fields = {"question": "Where was she born?", "choices": list(choices), "answer": answer}
    return BenchmarkItem(id, "multiple_choice", fields, meta=meta)


def measured(items):
    runtime = RuntimeConfig(device="cpu", micro_batch_size=2)
    subject = Subject(small_policy(), None, None, small_config(), runtime, NullTracker())
    return measure(items, "closed", subject)


def test_a_longer_answer_is_less_likely_whole_and_not_per_byte():
    """Of a random policy each token costs about as much: ~6 nats of 420 tokens."""
    (row,) = measured([item(choices=("Arlen", "Arlen Arlen Arlen"))]).items
    assert row["correct"] == 1.0
    assert row["rule_longest"] == 0.0
    assert row["rule_first"] == 1
    assert row["chance"] == 0.5


def test_metrics_by_hand():
    rows = [
        {
            "id": str(i),
            "group": str(i),
            "condition": "closed",
            "subject": "law" if i else "art",
            "correct": hit,
            "correct_per_token": 0.0,
            "correct_per_byte": 1.0,
            "chance": 1 / 4,
            "rule_longest": hit,
            "rule_first": 0,
        }
        for i, hit in enumerate((1.0, 0.0, 0.5))
    ]
    found = summarise(rows, Intervals(0.95, 100, 0))
    assert found["accuracy"].value == 0.5
    assert found["accuracy_per_token"].value == 0.0
    assert found["accuracy_per_byte"].value == 1.0
    assert found["chance"].value == 0.25
    assert found["art_accuracy"].value == 1.0
    assert found["law_accuracy"].value == 0.25
    assert all(BENCHMARK.declares(name) for name in found)


def test_sureness_by_hand():
    """Two answers log 3 nats apart: the likelier has 3 of 4 parts, and is right in 1 of 4 rows."""
    rows = [
        {"id": str(i), "group": str(i), "nats": [-5.0, -5.0 - math.log(3)], "correct": float(i < 1)}
        for i in range(4)
    ]
    found = sureness(rows, Intervals(0.95, 100, 0))
    assert found["confidence"].value == pytest.approx(0.75)
    assert found["ece"].value == pytest.approx(0.75 - 0.25)
    # Of 4 draws at .75 the share misses by .75, .5, .25, 0, .25, in 1, 12, 54, 108, 81 of 256
    by_chance = (0.75 * 1 + 0.5 * 12 + 0.25 * 54 + 0.25 * 81) / 256
    assert found["ece_if_calibrated"].value == pytest.approx(by_chance, abs=0.02)
    assert 0 < found["ece_debiased"].value < found["ece"].value
    assert tuple(found) == SURENESS
    assert all(BENCHMARK.declares(name) for name in found)
    assert sureness([], Intervals(0.95, 100, 0)) == {}


def test_probabilities_of_answers_too_unlikely_for_a_float():
    assert probability_of_likeliest([-2000.0, -2000.0 - math.log(3)]) == pytest.approx(0.75)
    assert probability_of_likeliest([-1.0, -1.0, -1.0]) == pytest.approx(1 / 3)


def test_a_measured_policy_says_how_sure_it_is():
    rows = measured([item(id=str(i), answer=i % 2) for i in range(4)]).items
    assert set(SURENESS) <= set(summarise(rows, Intervals(0.95, 100, 0)))


def test_choices_are_stripped_and_the_answer_is_a_place():
    assert choices_of(item(choices=(" a", "b "), answer=1)) == (["a", "b"], 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"choices": ("a",)}, "choices .* must be a list of at least two different texts"),
        ({"choices": ("a", " a")}, "choices .* must be a list of at least two different texts"),
        ({"choices": ("a", "")}, "choices .* must be a list of at least two different texts"),
        ({"answer": 2}, r"answer \(=2\) must be the place of a choice, 0 to 1"),
        ({"answer": True}, r"answer \(=True\) must be the place"),
    ],
)
def test_a_bad_item_is_refused_before_any_work(change, says):
    with pytest.raises(DataError, match=says):
        asked([item(**change)], small_config())
