"""Open questions and SimpleQA: grades by hand, from a policy, and what their files get wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from worlds.evaluation import small_config, small_policy

from eval.benchmarks.open_answers import open_qa, simpleqa
from eval.benchmarks.open_answers.open_qa import source_of
from eval.benchmarks.open_answers.simpleqa import CORRECT, INCORRECT, NOT_ATTEMPTED, f_score, grade
from eval.benchmarks.retrieved.columns import metric_names
from eval.benchmarks.subject import Subject
from eval.intervals import Intervals
from plumbrule.data.readers import read
from plumbrule.data.readers.open_answers import UNANSWERED
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import ConfigError, DataError
from plumbrule.grounding.answer_match import contains
from plumbrule.lm.config import SamplingConfig
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker

INTERVALS = Intervals(0.95, 100, 0)


def item(task, number=0, **fields):
    whole = {"question": f"Where was {number} born?", "answers": ["Arlen", "in Arlen"], **fields}
    return BenchmarkItem(f"q{number}", task, whole)


@pytest.fixture(scope="module")
def subject():
    runtime = RuntimeConfig(device="cpu", micro_batch_size=4)
    return Subject(small_policy(), None, None, small_config(), runtime, NullTracker())


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Arlen", CORRECT),
        ("It was in the town of Arlen.", CORRECT),
        ("It was Bosk.", INCORRECT),
        ("Arlenburg", INCORRECT),  # the reference is a word of its own, not a part of one
        ("I do not know.", NOT_ATTEMPTED),
        ("I'm not sure, sorry", NOT_ATTEMPTED),
        ("", NOT_ATTEMPTED),
        ("I do not know. Perhaps Arlen.", INCORRECT),  # neither stated nor left
    ],
)
def test_the_three_grades(response, expected):
    assert grade(response, ["Arlen"]) == expected


def test_f_is_the_harmonic_mean_of_correct_and_correct_given_attempted():
    # 3 of 10 correct, 6 attempted: 0.3 and 0.5: 2 x 0.3 x 0.5 / 0.8 = 0.375.
    correct, attempted = np.zeros(10), np.zeros(10)
    correct[:3], attempted[:6] = 1, 1
    assert f_score(correct, attempted) == pytest.approx(0.375)
    assert f_score(np.zeros(4), np.ones(4)) == 0.0


def row(number, given):
    grades = {name: int(name == given) for name in simpleqa.GRADES}
    attempted = int(given != NOT_ATTEMPTED)
    return {"id": str(number), "group": "", "condition": "closed", **grades, "attempted": attempted}


def test_metrics_of_grades_by_hand():
    rows = [row(k, CORRECT if k < 6 else INCORRECT if k < 9 else NOT_ATTEMPTED) for k in range(12)]
    found = simpleqa.summarise(rows, INTERVALS)
    assert found["correct"].value == 0.5
    assert found["incorrect"].value == found["not_attempted"].value == 0.25
    assert found["correct_given_attempted"].value == pytest.approx(2 / 3)
    assert found["f"].value == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert found["f"].low < found["f"].value < found["f"].high


def test_a_policy_that_never_attempts_has_no_f():
    found = simpleqa.summarise([row(k, NOT_ATTEMPTED) for k in range(12)], INTERVALS)
    assert set(found) == set(simpleqa.GRADES)


def test_a_policy_is_asked_and_measured(subject):
    items = [item("simpleqa", k) for k in range(3)]
    measured = simpleqa.measure(items, "closed", subject)
    assert [sum(r[name] for name in simpleqa.GRADES) for r in measured.items] == [1, 1, 1]
    assert "graded by a rule" in measured.notes[-1]


def test_open_answers_are_compared_with_every_reference(subject):
    items = [item("open_qa", k, passages=["A town."]) for k in range(3)]
    measured = open_qa.measure(items, "closed", subject)
    found = open_qa.summarise(measured.items, INTERVALS)
    votes = {*open_qa.VOTE_SHARES, *open_qa.VOTE_MEANS}
    assert set(found) == set(open_qa.BENCHMARK.metrics) - votes - set(metric_names())
    assert any("BLEU by sacrebleu, nrefs:2|" in note for note in measured.notes)
    assert measured.samples[0]["passages"] == ["A town."]


def test_the_commonest_of_sampled_answers_is_scored_beside_the_greedy_one():
    runtime = RuntimeConfig(device="cpu", micro_batch_size=4)
    config = small_config(num_votes=3)
    voting = Subject(small_policy(), None, None, config, runtime, NullTracker())
    items = [item("open_qa", k) for k in range(4)]
    measured = open_qa.measure(items, "closed", voting)
    found = open_qa.summarise(measured.items, INTERVALS)
    assert set(found) == set(open_qa.BENCHMARK.metrics) - set(metric_names())
    for row in measured.items:
        assert len(row["votes"]) == 3
        assert row["vote_agreement"] in (1 / 3, 2 / 3, 1.0)
    assert len({text for row in measured.items for text in row["votes"]}) > 4  # they are sampled
    alone = open_qa.measure(items[2:3], "closed", voting)
    assert alone.items[0]["votes"] == measured.items[2]["votes"]
    assert open_qa.signature(config).endswith("|votes:3 at temperature 1")


def test_votes_by_hand():
    # Two of four say Arlen in two spellings; Bosk and Corvane one each.
    columns = open_qa.vote_columns(["Bosk", "the Arlen", "Corvane", "arlen."], ["Arlen"])
    assert columns["vote_exact_match"] == columns["vote_contains"] == 1
    assert (columns["vote_agreement"], columns["vote_tied"]) == (0.5, 0)
    tied = open_qa.vote_columns(["Bosk", "Arlen"], ["Arlen"])
    assert (tied["vote_exact_match"], tied["vote_tied"]) == (0, 1)  # the first one drawn
    assert open_qa.vote_columns([], ["Arlen"]) == {}


def test_votes_need_a_temperature():
    with pytest.raises(ConfigError, match=r"eval.sampling.temperature \(=0.0\) must be above 0"):
        small_config(num_votes=3, sampling=SamplingConfig(temperature=0.0))


def test_an_answer_in_a_sentence_contains_the_reference_and_matches_none():
    assert contains("She was born in Arlen, I think.", ["Bosk", "arlen"]) == 1
    assert contains("Arlenburg", ["arlen"]) == 0
    assert contains("anything", ["the"]) == 0  # nothing is left of such a reference


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"answers": []}, r"answers \(=\[\]\) must be a list of texts"),
        ({"answers": ["a", " "]}, "answers .* must be a list of texts"),
        ({"answers": "a"}, "answers .* must be a list of texts"),
        ({"question": ""}, "must have a question"),
        ({"passages": "text"}, "passages .* must be a list of texts"),
    ],
)
def test_a_bad_item_is_refused_before_any_work(fields, says):
    with pytest.raises(DataError, match=says):
        open_qa.asked([item("open_qa", **fields)], small_config())


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_simpleqas_metadata_is_a_python_literal_and_no_json(tmp_path):
    meta = "{'topic': \"Ada's notes\", 'answer_type': 'Date', 'urls': ['x']}"
    with pytest.raises(json.JSONDecodeError):
        json.loads(meta)
    quoted = meta.replace('"', '""')
    path = written(tmp_path / "t.csv", f'metadata,problem,answer\n"{quoted}",When?,1843\n')
    (found,) = (r.record for r in read("simpleqa", "simpleqa", path, simpleqa.BENCHMARK.items))
    assert found.meta == {"topic": "Ada's notes", "answer_type": "Date"}
    assert found.fields == {"question": "When?", "answers": ["1843"]}


@pytest.mark.parametrize("meta", ["__import__('os').getcwd()", "[1", "3"])
def test_metadata_that_is_no_dict_of_values_is_refused_and_runs_nothing(tmp_path, meta):
    path = written(tmp_path / "t.csv", f'metadata,problem,answer\n"{meta}",When?,1843\n')
    with pytest.raises(DataError, match=r"t.csv, row 1: metadata .* must be a Python literal"):
        list(read("simpleqa", "simpleqa", path, simpleqa.BENCHMARK.items))


def test_forms_of_open_questions(tmp_path):
    rows = [
        {"question": "A?", "answers": ["a", "a", "b"], "context": "C.", "title": "T"},
        {"prompt": "B?", "answer": "b"},
        {"id": "s", "question": "C?", "answers": {"text": ["c"], "answer_start": [3]}},
        {"question": "D?", "answers": {"text": [], "answer_start": []}},
    ]
    path = written(tmp_path / "t.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    found = list(read("open_qa", "open_qa", path, open_qa.BENCHMARK.items))
    assert found[0].record.fields == {"question": "A?", "answers": ["a", "b"], "passages": ["C."]}
    assert found[0].unread == ("title",)
    assert found[1].record.fields["answers"] == ["b"]
    assert found[2].record.id == "s"
    assert found[3].dropped == UNANSWERED


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question": " "}, "a row must hold the text question"),
        ({"answers": 4}, "answers .* must be texts"),
        ({"answers": [4]}, "answers .* must be texts"),
        ({"context": 3}, "passages .* must be a list of texts"),
    ],
)
def test_a_bad_row_of_open_questions_is_named(tmp_path, change, says):
    good = {"question": "A?", "answers": ["a"]}
    path = written(tmp_path / "t.jsonl", json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    with pytest.raises(DataError, match=f"t.jsonl, row 2: {says}"):
        list(read("open_qa", "open_qa", path, open_qa.BENCHMARK.items))


def test_questions_on_one_text_count_together_in_an_interval():
    def group(number, group="", **fields):
        return source_of(BenchmarkItem(f"q{number}", "open_qa", fields, group))

    text = ["The mill stood by the river."]
    assert group(1, passages=text) == group(2, passages=text)
    assert group(1, passages=text) != group(2, passages=["Another text."])
    assert [group(1), group(2)] == ["q1", "q2"]
    assert group(1, "a", passages=text) == "a"
