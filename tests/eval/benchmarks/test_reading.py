"""The reading exam: which share is which, its breakdowns, and items that break its format."""

from __future__ import annotations

import pytest
from worlds.evaluation import meta, small_config, small_policy

from eval.benchmarks.generate import Subject
from eval.benchmarks.reading import CASES, as_prompt, measure, passages_of, summarise
from eval.comparisons.compare import quantities
from eval.intervals import Intervals
from eval.stage import name_reading
from plumbrule.atlas.reading import CASES as ATLAS_CASES
from plumbrule.config import RuntimeConfig
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import DataError
from plumbrule.tracking.stage_tracker import NullTracker

INTERVALS = Intervals(confidence=0.95, num_resamples=100, seed=0)


def row(number, case, correct=0, abstained=0, **about):
    return {
        "id": f"{case}{number}",
        "group": f"{case}{number}",
        "case": case,
        "correct": correct,
        "abstained": abstained,
        **about,
    }


def test_shares_and_breakdowns_by_hand():
    rows = [
        row(0, "read", 1, num_passages=2, position=1),
        row(1, "read", 0, num_passages=2, position=2),
        row(2, "read", 1, num_passages=3, position=2),
        row(3, "read", 1, num_passages=3, position=2),
        row(4, "closed", 1, num_passages=0),
        row(5, "abstain", 0, 1, distractor="none"),
        row(6, "abstain", 1, 0, distractor="absent"),
    ]
    found = {name: (i.value, i.n) for name, i in summarise(rows, INTERVALS).items()}
    assert found == {
        "read_accuracy": (0.75, 4),
        "read_accuracy · num passages 2": (0.5, 2),
        "read_accuracy · num passages 3": (1.0, 2),
        "read_accuracy · position 1": (1.0, 1),
        "read_accuracy · position 2": (pytest.approx(2 / 3), 3),
        "closed_book_accuracy": (1.0, 1),
        "abstain_accuracy": (0.5, 2),
        "abstain_accuracy · distractor absent": (0.0, 1),
        "abstain_accuracy · distractor none": (1.0, 1),
    }


def test_headlines_are_the_shares_without_their_breakdowns():
    assert name_reading("read_accuracy", "base", "closed") == "base/read_accuracy"
    assert name_reading("read_accuracy · position 2", "base", "closed") is None


@pytest.mark.parametrize(
    ("fields", "meta"),
    [
        ({}, {"case": "read", "answer": "Arlen"}),
        ({"question": "Where?"}, {"case": "guess", "answer": "Arlen"}),
        ({"question": "Where?"}, {"case": "read"}),
    ],
)
def test_an_item_that_breaks_the_format_is_named(fields, meta):
    with pytest.raises(DataError, match=r"reading item 'r7' must have a question"):
        as_prompt(BenchmarkItem("r7", "reading", fields, "", meta))


def test_passages_and_breakdowns_of_the_wrong_type_are_refused():
    right = {"case": "read", "answer": "Arlen"}
    item = BenchmarkItem("r8", "reading", {"question": "Where?", "passages": "Ada."}, "", right)
    with pytest.raises(DataError, match=r"passages \(='Ada.'\) must be a list of texts"):
        passages_of(item)
    item = BenchmarkItem("r9", "reading", {"question": "Where?"}, "", {**right, "position": [1]})
    with pytest.raises(DataError, match=r"meta.position \(=\[1\]\) must be text or a whole"):
        as_prompt(item)


def test_the_exam_of_a_policy_goes_by_items_and_their_groups():
    asked = {"question": "Where was Ada born?", "passages": ["Ada was born in Arlen."]}
    about = meta("Ada", "Arlen", "documents")
    items = [
        BenchmarkItem(f"r{i}", "reading", asked, "Ada's", {**about, "case": "read", "position": i})
        for i in (1, 2)
    ]
    policy = small_policy()
    subject = Subject(
        policy, None, None, small_config(), RuntimeConfig(device="cpu"), NullTracker()
    )
    measured = measure(items, "closed", subject)
    assert [row["id"] for row in measured.items] == ["r1", "r2"]
    assert {row["group"] for row in measured.items} == {"Ada's"}
    assert [row["position"] for row in measured.items] == [1, 2]
    assert measured.samples[0]["passages"] == ["Ada was born in Arlen."]
    assert len(summarise(measured.items, INTERVALS)) == 3


def test_what_two_policies_read_is_compared_by_case():
    rows = [row(0, "read", 1), row(1, "abstain", 0, 1)]
    assert [(q.name, q.column) for q in quantities("reading", rows)] == [
        ("reading_read_change", "correct"),
        ("reading_abstain_change", "abstained"),
    ]


def test_its_cases_are_those_that_atlas_writes():
    assert tuple(CASES) == ATLAS_CASES
