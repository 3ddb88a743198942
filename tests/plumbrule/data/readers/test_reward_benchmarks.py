"""Readers of the sets that reward models and judges are tested on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbrule.data.readers import read
from plumbrule.errors import DataError


def written(path: Path, *rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rankings(format, path):
    return list(read(format, "preferences", path))


BEST = {
    "id": "12",
    "prompt": " Is 7 prime? ",
    "chosen": ["Yes."],
    "rejected": ["No.", "Never.", "No."],
    "subset": "Precise IF",
    "num_correct": 1,
}
TIE = {**BEST, "id": "tied:3", "chosen": ["2", "3"], "rejected": ["4"], "subset": "Ties"}


def test_rewardbench2(tmp_path):
    best, tie = rankings("rewardbench2", written(tmp_path / "test.jsonl", BEST, TIE))
    assert best.record.responses == ("Yes.", "No.", "Never.")  # a repeat counts once
    assert best.record.ranks == (1, 2, 2)
    assert best.record.messages[0].content == "Is 7 prime?"
    assert best.record.meta == {"protocol": "best_of", "subset": "precise_if"}
    assert best.held_out is True  # nothing of it trains
    assert tie.record.ranks == (1, 1, 2)
    assert tie.record.meta["kind"] == "tied"
    assert tie.record.meta["question"] == "3"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": None}, "prompt must be text"),
        ({"subset": 3}, "subset must be text"),
        ({"chosen": "Yes."}, "chosen .* must be a list of texts"),
        ({"chosen": []}, "chosen must hold an answer"),
        ({"rejected": ["No", " "]}, "rejected .* must be a list of texts"),
        ({"subset": "Ties"}, r"id \(='12'\) of the subset Ties must be ref:n or tied:n"),
    ],
)
def test_a_bad_row_of_rewardbench2(tmp_path, change, says):
    path = written(tmp_path / "test.jsonl", BEST, BEST | change)
    with pytest.raises(DataError, match=f"row 2: {says}"):
        rankings("rewardbench2", path)


STYLES = {"id": 1, "prompt": "Q?", "chosen": ["a", "aa", "aaa"], "rejected": ["b", "bb", "bbb"]}


def test_rm_bench_takes_the_domain_from_the_file_or_the_row(tmp_path):
    """Only the whole table has the column, against the description of the set."""
    written(tmp_path / "safety-refuse_filtered.json", STYLES)
    (row,) = rankings("rm_bench", tmp_path)
    assert row.record.meta["subset"] == "safety-refuse"
    assert row.record.meta["styles"] == {"chosen": [0, 1, 2], "rejected": [3, 4, 5]}
    whole = written(tmp_path / "total_dataset.json", STYLES | {"domain": "math"})
    assert rankings("rm_bench", whole)[0].record.meta["subset"] == "math"


def test_two_styles_with_one_text_are_one_answer(tmp_path):
    """A ranking may not hold an answer twice; its scores are then those of both styles."""
    row = STYLES | {"chosen": ["a", "aa", "aa"]}
    (found,) = rankings("rm_bench", written(tmp_path / "chat.json", row))
    assert found.record.responses == ("a", "aa", "b", "bb", "bbb")
    assert found.record.meta["styles"] == {"chosen": [0, 1, 1], "rejected": [2, 3, 4]}


@pytest.mark.parametrize("format", ["rewardbench2", "rm_bench"])
def test_an_answer_that_is_right_and_wrong_is_counted(tmp_path, format):
    row = {**STYLES, "subset": "Math", "rejected": ["a", "bb", "bbb"]}
    (found,) = rankings(format, written(tmp_path / "chat.json", row))
    assert found.record is None
    assert found.dropped == "an answer is both right and wrong"


def test_rm_bench_needs_three_styles(tmp_path):
    path = written(tmp_path / "chat.json", STYLES | {"chosen": ["a", "b"]})
    with pytest.raises(DataError, match="chosen must hold three answers"):
        rankings("rm_bench", path)


def test_llmbar_keeps_the_order_that_judges_are_shown(tmp_path):
    row = {"input": "Q?", "output_1": "a", "output_2": "b", "label": 2}
    equal = {**row, "output_2": "a "}
    written(tmp_path / "LLMBar" / "Adversarial" / "GPTInst" / "dataset.json", row, equal)
    written(tmp_path / "LLMBar" / "Adversarial" / "GPTInst" / "result.json", {"other": 1})
    first, second = rankings("llmbar", tmp_path)
    assert first.record.responses == ("a", "b")
    assert first.record.ranks == (2, 1)
    assert first.record.meta == {"in_order": True, "subset": "llmbar_adversarial_gptinst"}
    assert second.dropped == "the answers are equal"


PANDA = {
    "instruction": "Prime?",
    "input": "7",
    "response1": "No.",
    "response2": "Yes.",
    "annotator1": 2,
    "annotator2": 0,
}


def test_pandalm_gives_a_ranking_for_each_annotator(tmp_path):
    first, second = (r.record for r in rankings("pandalm", written(tmp_path / "t.json", PANDA)))
    assert first.messages[0].content == "Prime?\n\n7"
    assert (first.annotator, first.ranks) == ("annotator1", (2, 1))
    assert (second.annotator, second.ranks) == ("annotator2", (1, 1))
    assert first.id != second.id


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotator2": 3}, r"annotator2 \(=3\) must be 0 \(a tie\), 1 or 2"),
        ({"annotator1": None, "annotator2": None}, "annotator1"),
        ({"response1": ""}, r"response1 \(=''\) must be text"),
    ],
)
def test_a_bad_row_of_pandalm(tmp_path, change, says):
    with pytest.raises(DataError, match=f"row 1: {says}"):
        rankings("pandalm", written(tmp_path / "t.jsonl", PANDA | change))


@pytest.mark.parametrize("format", ["rewardbench2", "rm_bench", "llmbar", "pandalm"])
def test_a_folder_without_a_table_is_named(tmp_path, format):
    with pytest.raises(DataError, match="is here; name a file"):
        rankings(format, tmp_path)
