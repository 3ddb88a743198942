"""Questions with given answers: which is chosen, by which length, and what needs no model."""

from __future__ import annotations

import pytest
from worlds.evaluation import small_config, small_policy

from eval.benchmarks.multiple_choice.general import (
    BENCHMARK,
    asked,
    choices_of,
    measure,
    summarise,
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
