"""JSON and JSON Lines files have one form, and are there whole or not at all."""

from __future__ import annotations

import pytest

from plumbrule.store.json_files import read_json, read_jsonl, write_json, write_jsonl

ROWS = [{"id": "ä\u2028b", "numbers": [1, 0.5]}, {"id": "c", "none": None}]


def test_rows_are_one_line_each_with_text_as_it_is(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, iter(ROWS)) == 2
    lines = '{"id": "ä\u2028b", "numbers": [1, 0.5]}\n{"id": "c", "none": null}\n'
    assert path.read_bytes() == lines.encode()
    assert read_jsonl(path) == ROWS


def test_no_rows_are_an_empty_file(tmp_path):
    assert write_jsonl(tmp_path / "rows.jsonl", []) == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == b""
    assert read_jsonl(tmp_path / "rows.jsonl") == []


def test_a_value_is_indented_and_ends_with_a_line_break(tmp_path):
    write_json(tmp_path / "value.json", {"a": ["ä"]})
    assert (tmp_path / "value.json").read_bytes() == '{\n "a": [\n  "ä"\n ]\n}\n'.encode()
    assert read_json(tmp_path / "value.json") == {"a": ["ä"]}


def test_a_row_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)

    def broken():
        yield ROWS[1]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(path, broken())
    assert read_jsonl(path) == ROWS


@pytest.mark.parametrize(
    "number", ["18446744073709551616", "-18446744073709551616", "1" + "0" * 400]
)
def test_whole_numbers_of_more_than_64_bits_are_no_json_of_ours(tmp_path, number):
    path = tmp_path / "value.json"
    path.write_text(f'{{"size": {number}}}\n')
    for read in (read_json, read_jsonl):
        with pytest.raises(ValueError, match="more than 64 bits"):
            read(path)
    write_json(path, [2**64 - 1, 1 - 2**64])
    assert read_json(path) == [2**64 - 1, 1 - 2**64]
