"""JSON that Python's parser takes and JSON lacks, and JSON that breaks it: one ValueError."""

from __future__ import annotations

import json

import pytest

from plumbrule.data.strict_json import MAX_DEPTH, parse_json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": [-Infinity]}', "-Infinity"),
        ("1e999", "1e999"),
        ("-1e999", "must be finite"),
        ("9" * 5000, "at most 300 digits, not 5000"),
        ("9" * 301, "at most 300 digits"),
        ("[" * 200_000, "nest at most 64"),
        ("[" * 80 + "]" * 80, "nest at most 64"),
        ('{"a":' * 80 + "1" + "}" * 80, "nest at most 64"),
        (r'{"a": "half \ud83d"}', "half a surrogate pair"),
        (r'{"\udc00": 1}', "half a surrogate pair"),
        ('"\ud83d"', "half a surrogate pair"),
        ('{"a": 1, "a": 2}', "'a' must be given once"),
        ("{'a': 1}", "not valid JSON"),
        ("", "not valid JSON"),
        (b"\xff", "utf-8"),
    ],
)
def test_what_no_later_step_could_hold_is_a_value_error(text, says):
    with pytest.raises(ValueError, match=says):
        parse_json(text)


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5, True, None, "\U0001f600 \\ud83d"]},
        [[[]]] * 100,
        10**299,
        "9" * 400,
        json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH),
    ],
)
def test_the_rest_is_what_it_was(value):
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value
