"""Questions: what counts as correct, abstained and confidently wrong; shares by hand."""

from __future__ import annotations

import pytest
from worlds.evaluation import meta

from eval.benchmarks.questions import as_prompt, holds, judged, outcome, summarise
from eval.intervals import Intervals
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import DataError
from plumbrule.protocols import Episode
from plumbrule.statistics import wilson

INTERVALS = Intervals(confidence=0.95, num_resamples=100, seed=0)


def episode(response, answer="Arlen", answerable="documents", passages=()):
    item = BenchmarkItem(
        "q", "question", {"question": "Where was Ada born?"}, "Ada", meta("Ada", answer, answerable)
    )
    return Episode(as_prompt(item), passages, response, True)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Ada was born in Arlen.", "correct"),
        ("arlen", "correct"),
        ("Ada was born in Bosk.", "confident_wrong"),
        ("Arlen or Bosk.", "confident_wrong"),
        ("I do not know.", "abstained"),
        ("Thank you for asking. I do not know where Ada was born.", "abstained"),
        ("I do not know, Bosk.", None),
        ("I do not know, Arlen.", None),
        ("", None),
        ("Where was Ada born?", None),
    ],
)
def test_outcomes(response, expected):
    found = outcome(episode(response))
    assert found == {
        name: int(name == expected) for name in ("correct", "abstained", "confident_wrong")
    }


def test_where_nothing_can_answer_every_answer_is_wrong():
    assert outcome(episode("Ada was born in Arlen.", "", "nothing"))["confident_wrong"] == 1
    assert outcome(episode("I do not know.", "", "nothing"))["abstained"] == 1


def test_answer_shown_needs_whole_words():
    assert holds("Ada was born in Arlen.", "Arlen")
    assert not holds("Ada was born in Arlenburg.", "Arlen")
    row = judged(episode("Bosk", passages=("Ada was born in Arlen.",)), "Ada", "rag")
    assert row["answer_shown"] == 1
    assert "answer_shown" not in judged(episode("Bosk"), "Ada", "closed")


def rows(answerable, outcomes):
    names = {"c": "correct", "a": "abstained", "w": "confident_wrong"}
    return [
        {
            "id": f"{answerable}{i}",
            "group": f"{answerable}{i}",
            "answerable": answerable,
            **{name: int(names.get(letter) == name) for name in names.values()},
        }
        for i, letter in enumerate(outcomes)
    ]


def test_shares_by_hand():
    both = rows("documents", "cwwa-") + rows("memory", "ccw") + rows("nothing", "aaaa")
    found = summarise(both, INTERVALS)
    assert found["accuracy"].value == 1 / 5
    assert found["abstain"].value == 1 / 5
    assert found["confident_wrong"].value == 2 / 5
    assert found["known_accuracy"].value == pytest.approx(2 / 3)
    assert found["known_confident_wrong"].value == pytest.approx(1 / 3)
    assert found["abstain_unanswerable"][:2] == (1.0, pytest.approx(wilson(4, 4).low))
    assert found["accuracy"].n == 5


def test_questions_of_one_entity_count_less():
    alone = rows("documents", "ccccwwwwccccwwwwccccccccwwww")
    shared = [{**row, "group": str(i // 4)} for i, row in enumerate(alone)]
    widths = [
        summarise(r, INTERVALS)["accuracy"].high - summarise(r, INTERVALS)["accuracy"].low
        for r in (alone, shared)
    ]
    assert widths[1] > 1.2 * widths[0]


def test_absent_kinds_give_no_metric():
    assert set(summarise(rows("memory", "c"), INTERVALS)) == {
        "known_accuracy",
        "known_abstain",
        "known_confident_wrong",
    }


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({"question": ""}, meta("Ada", "Arlen", "memory")),
        ({"question": "Where?"}, meta("Ada", "Arlen", "elsewhere")),
        ({"question": "Where?"}, {"answerable": "memory"}),
    ],
)
def test_questions_of_another_shape_are_named(fields, about):
    with pytest.raises(DataError, match="question 'q' must have"):
        as_prompt(BenchmarkItem("q", "question", fields, meta=about))
