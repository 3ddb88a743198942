"""The five records survive a file, and every broken row says what is wrong and where."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import (
    BenchmarkItem,
    Demonstration,
    Document,
    Message,
    Preference,
    Prompt,
    from_dict,
    read_records,
    to_dict,
    write_records,
)
from plumbrule.errors import DataError

CHAT = (Message("system", "Be brief."), Message("user", "Who?"))
RECORDS = [
    Prompt("p", CHAT, {"answer": "Ada", "aliases": ["A."]}),
    Demonstration("d", CHAT, "Ada.", ("One passage.", "Two.")),
    Preference(
        "r",
        CHAT,
        ("a", "b", "c"),
        (2, 1, 2),
        passages=("One.",),
        scores=(0.5, 1.0, 0.5),
        margin=0.5,
        annotator="gold",
        confidence=0.75,
        finished=(True, False, True),
        utilities=(0.5, 1.5, -1.0),
        terms={"right": (0.5, 1.0, -1.0), "brief": (0.0, 0.5, 0.0)},
        flipped=False,
        meta={"round": 1},
    ),
    Document("doc", "Ada was born.\u2028A second line.", "Ada"),
    BenchmarkItem("b", "halueval_qa", {"question": "Who?"}, "b", {"answer": "Ada"}),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_record_survives_a_file(record, tmp_path):
    assert write_records([record, record], tmp_path / "rows.jsonl") == 2
    assert read_records(type(record), tmp_path / "rows.jsonl") == [record, record]


def test_defaults_are_left_out():
    assert to_dict(Prompt("p", (Message("user", "Hi"),))) == {
        "id": "p",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert set(to_dict(Preference("r", CHAT, ("a", "b"), (1, 2)))) == {
        "id",
        "messages",
        "responses",
        "ranks",
    }


OF_ANSWERS = {
    "finished": [True, False],
    "utilities": [1, 0.5],
    "terms": {"right": [1, 0.5]},
    "flipped": True,
}
"""What is known of the answers of `GOOD`, as JSON."""


def test_what_older_files_say_of_answers_inside_meta_is_read_into_the_fields():
    old = from_dict(Preference, {**GOOD, "meta": {"round": 1, **OF_ANSWERS}})
    new = from_dict(Preference, {**GOOD, **OF_ANSWERS, "meta": {"round": 1}})
    assert old == new
    assert new.finished == (True, False)
    assert new.utilities == (1, 0.5)
    assert new.terms == {"right": (1, 0.5)}
    assert new.flipped is True
    assert json.loads(json.dumps(to_dict(old))) == {**GOOD, **OF_ANSWERS, "meta": {"round": 1}}


def test_meta_of_a_row_that_has_the_fields_is_left_alone():
    """A prompt's own `terms` say nothing of the answers."""
    row = {**GOOD, "finished": [True, True], "meta": {"terms": "of trade", "utilities": [1]}}
    read = from_dict(Preference, row)
    assert read.meta == {"terms": "of trade", "utilities": [1]}
    assert (read.terms, read.utilities) == (None, None)


def test_all_answers_ended_where_the_source_does_not_say():
    assert from_dict(Preference, GOOD).which_finished() == (True, True)
    cut = from_dict(Preference, {**GOOD, "finished": [True, False]})
    assert cut.which_finished() == (True, False)


def test_ties_give_no_pair():
    # ranks 2, 1, 2: response 1 beats 0 and 2; 0 and 2 are tied
    assert RECORDS[2].pairs() == [(1, 0), (1, 2)]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_pairs_follow_ranks(drawn):
    dense = {rank: place for place, rank in enumerate(sorted(set(drawn)), 1)}
    ranks = tuple(dense[rank] for rank in drawn)
    pairs = set(Preference("r", CHAT, tuple("abcdef"[: len(ranks)]), ranks).pairs())
    for i, left in enumerate(ranks):
        for j, right in enumerate(ranks):
            assert ((i, j) in pairs) == (left < right)


USER = [{"role": "user", "content": "Hi"}]
GOOD = {"id": "x", "messages": USER, "responses": ["a", "b"], "ranks": [1, 2]}
BAD_ROWS = [
    (Prompt, {"id": "x"}, r"field\(s\) messages must be in a Prompt"),
    (Prompt, {"id": "x", "messages": []}, "last message"),
    (Prompt, {"id": "x", "messages": "Hi"}, "list of turns"),
    (Prompt, {"id": "x", "messages": ["Hi"]}, "role and content"),
    (Prompt, {"id": "x", "messages": [{"role": "tool", "content": "Hi"}]}, "must be one of"),
    (Prompt, {"id": "x", "messages": [{"role": "user", "content": 3}]}, "must be text"),
    (Prompt, {"id": "x", "messages": [{"role": "assistant", "content": "Hi"}]}, "user's"),
    (Prompt, {"id": 7, "messages": USER}, r"id \(=7\) must be text"),
    (Prompt, {"id": "x", "messages": USER, "meta": [1]}, "must be a JSON object"),
    (Prompt, {"id": "x", "messages": USER, "answer": "a"}, r"field\(s\) answer must be known"),
    (Demonstration, {"id": "x", "messages": USER, "response": " \n"}, "must hold text"),
    (Demonstration, {"id": "x", "messages": USER, "response": 5}, "must be text"),
    (Demonstration, {"id": "x", "messages": USER, "response": "a", "passages": "b"}, "list of te"),
    (Preference, {**GOOD, "responses": ["a"], "ranks": [1]}, "at least 2"),
    (Preference, {**GOOD, "responses": "ab"}, "list of texts"),
    (Preference, {**GOOD, "responses": ["a", "a"]}, "must differ"),
    (Preference, {**GOOD, "ranks": [1]}, "number as many"),
    (Preference, {**GOOD, "ranks": [1, 3]}, "no hole"),
    (Preference, {**GOOD, "ranks": [0, 1]}, "no hole"),
    (Preference, {**GOOD, "ranks": ["1", "2"]}, "list of whole numbers"),
    (Preference, {**GOOD, "scores": [1.0]}, "number as many"),
    (Preference, {**GOOD, "confidence": 0}, r"lie in \(0, 1\]"),
    (Preference, {**GOOD, "margin": "big"}, "a number"),
    (Preference, {**GOOD, "finished": [True]}, r"finished \(=\[True\]\) must be a list of true or"),
    (Preference, {**GOOD, "finished": [1, 0]}, "list of true or false, one for each of the 2"),
    (Preference, {**GOOD, "finished": True}, r"finished \(=True\) must be a list"),
    (Preference, {**GOOD, "utilities": [1, 2, 3]}, r"utilities .* one for each of the 2"),
    (Preference, {**GOOD, "utilities": [True, False]}, "list of numbers, one for each"),
    (Preference, {**GOOD, "terms": [1, 2]}, "object of lists"),
    (Preference, {**GOOD, "terms": {"t": [1]}}, r"terms.t \(=\[1\]\) must be a list of numbers"),
    (Preference, {**GOOD, "flipped": [False, True]}, "true or false"),
    (Preference, {**GOOD, "meta": {"utilities": [1]}}, r"utilities .* one for each of the 2"),
    (Document, {"id": "x", "text": "  "}, "no text"),
    (Document, {"id": "x", "text": None}, "must be text"),
    (BenchmarkItem, {"id": "x", "task": "bold"}, r"field\(s\) .*fields must be in a BenchmarkItem"),
    (BenchmarkItem, {"id": "x", "task": "bold", "fields": "Hi"}, "JSON object"),
]


@pytest.mark.parametrize(("kind", "row", "says"), BAD_ROWS, ids=[c[2] for c in BAD_ROWS])
def test_a_broken_row_names_file_row_and_rule(kind, row, says, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=says) as caught:
        read_records(kind, file)
    assert f"{file}, row 2: " in str(caught.value)
    with pytest.raises(DataError):
        from_dict(kind, row)


def test_malformed_json_shows_80_characters(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": 1}\n{"id": ' + "z" * 500 + "\n")
    with pytest.raises(DataError, match="row 2: not valid JSON") as caught:
        list(read_rows(file))
    assert "z" * 70 in str(caught.value)
    assert "z" * 80 not in str(caught.value)


@pytest.mark.parametrize("line", ["[1, 2]", "3", '"text"', "null"])
def test_a_row_must_be_an_object(line, tmp_path):
    (tmp_path / "rows.jsonl").write_text(line)
    with pytest.raises(DataError, match="must be a JSON object"):
        list(read_rows(tmp_path / "rows.jsonl"))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(tmp_path / "rows.jsonl"))


def test_gzip_byte_order_mark_and_crlf_are_read(tmp_path):
    with gzip.open(tmp_path / "rows.jsonl.gz", "wb") as file:
        file.write(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert list(read_rows(tmp_path / "rows.jsonl.gz")) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"\x1f\x8b"])
def test_what_is_no_gzip_says_so(content, tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match="git lfs pull"):
        list(read_rows(tmp_path / "rows.jsonl.gz"))
