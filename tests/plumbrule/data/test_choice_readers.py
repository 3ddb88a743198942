"""Readers of questions with given answers: TruthfulQA's file, and tables of several projects."""

from __future__ import annotations

import json

import pytest

from plumbrule.data.readers.multiple_choice import read_multiple_choice
from plumbrule.data.readers.truthfulqa import read_truthfulqa
from plumbrule.errors import DataError

ROW = {
    "question": " Can pigs fly?",
    "mc1_targets": {"No": 1, "Yes": 0},
    "mc2_targets": {"No": 1, "Never": 1, "Yes": 0},
}


def written(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_truthfulqa_in_a_folder(tmp_path):
    written(tmp_path / "data" / "mc_task.json", [ROW, {**ROW, "mc0_targets": {"No": 1, "Yes": 0}}])
    first, second = (row.record for row in read_truthfulqa(tmp_path))
    assert first.id == "truthfulqa:1"
    assert first.fields == {
        "question": "Can pigs fly?",
        "mc1": ROW["mc1_targets"],
        "mc2": ROW["mc2_targets"],
    }
    assert second.fields["mc0"] == {"No": 1, "Yes": 0}


def test_an_answer_without_text_is_left_out_and_said(tmp_path):
    """As 22 questions of the later file have one."""
    blank = {**ROW, "mc2_targets": {"No": 1, " ": 0, "Yes": 0}}
    whole, other = read_truthfulqa(written(tmp_path / "mc_task.json", [ROW, blank]))
    assert other.record.fields["mc2"] == {"No": 1, "Yes": 0}
    assert whole.conversions == ()
    assert other.conversions == ("an answer without text is left out of its question",)


def test_both_versions_in_one_folder_must_be_told_apart(tmp_path):
    written(tmp_path / "mc_task.json", [ROW])
    written(tmp_path / "v1" / "mc_task.json", [ROW])
    with pytest.raises(
        DataError, match=r"one mc_task.json must be here \(mc_task.json, v1/mc_task"
    ):
        list(read_truthfulqa(tmp_path))
    assert len(list(read_truthfulqa(tmp_path / "v1"))) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"one mc_task.json must be here \(none\)"):
        list(read_truthfulqa(tmp_path / "empty"))


@pytest.mark.parametrize(
    "change",
    [
        {"question": None},
        {"mc1_targets": None},
        {"mc2_targets": ["No"]},
        {"mc1_targets": {"No": 2}},
        {"mc1_targets": {"No": True}},
        {"mc0_targets": None},
    ],
)
def test_a_bad_row_of_truthfulqa_is_named(tmp_path, change):
    path = written(tmp_path / "mc_task.json", [ROW, ROW | change])
    with pytest.raises(DataError, match=r"row 2: a row must hold question, mc1_targets and mc2"):
        list(read_truthfulqa(path))


def test_an_answer_that_is_given_twice_is_refused(tmp_path):
    path = tmp_path / "mc_task.json"
    path.write_text('[{"question": "q", "mc1_targets": {"No": 1, "No": 0}, "mc2_targets": {}}]')
    with pytest.raises(DataError, match="key 'No' must be given once"):
        list(read_truthfulqa(path))


def test_lists_with_a_place_and_objects_with_labels(tmp_path):
    rows = [
        {
            "question": "2 + 2?",
            "choices": ["3", " 4"],
            "answer": 1,
            "subject": "sums",
            "split": "x",
        },
        {
            "id": "arc1",
            "question": "Hot?",
            "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
            "answerKey": "B",
        },
    ]
    path = written(tmp_path / "test.json", rows)
    mmlu, arc = read_multiple_choice(path)
    assert mmlu.record.fields == {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}
    assert mmlu.record.meta == {"subject": "sums"}
    assert mmlu.unread == ("split",)
    assert arc.record.id == "arc1"
    assert arc.record.fields == {"question": "Hot?", "choices": ["ice", "fire"], "answer": 1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"choices": ["3"]}, "must be at least two, and differ"),
        ({"choices": ["4", "4 "]}, "must be at least two, and differ"),
        ({"choices": "34"}, "choices .* must be a list of texts"),
        ({"answer": 2}, r"answer \(=2\) must be the place of the right choice, 0 to 1"),
        ({"answer": "4"}, r"answer \(='4'\) must be the place"),
        ({"answer": True}, "must be the place"),
        ({"question": ""}, r"question \(=''\) must be text"),
        ({"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}, "answerKey"),
        ({"choices": {"text": ["a", "b"]}, "answerKey": "A"}, "answerKey"),
    ],
)
def test_a_bad_row_of_choices_is_named(tmp_path, change, says):
    row = {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}
    path = written(tmp_path / "test.json", [row, row | change])
    with pytest.raises(DataError, match=f"row 2: .*{says}"):
        list(read_multiple_choice(path))


def test_a_folder_without_a_table_is_named(tmp_path):
    with pytest.raises(DataError, match="no table"):
        list(read_multiple_choice(tmp_path))
