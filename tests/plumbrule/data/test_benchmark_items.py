"""Items of a benchmark: what each must hold, and what a limit counts."""

from __future__ import annotations

import json

import pytest

from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.readers import has_reader, read
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import ConfigError, DataError

FORMAT = ItemFormat({"plain": ["text"], "paired": ["text", "other"]}, ["answer"])
GOOD = {"task": "plain", "fields": {"text": "Hi"}, "meta": {"answer": "A"}}


def rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_any_benchmark_is_read_from_json_lines(tmp_path):
    (found,) = read("jsonl", "manners", rows(tmp_path / "a.jsonl", GOOD), FORMAT)
    assert found.record == BenchmarkItem("a:1", "plain", {"text": "Hi"}, "", {"answer": "A"})
    assert has_reader("jsonl", "manners", FORMAT)
    assert not has_reader("jsonl", "manners")
    assert not has_reader("hh_rlhf", "manners", FORMAT)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": "bold"}, r"task \(='bold'\) must be one of plain, paired"),
        ({"task": "paired"}, r"fields \(text\) of an item of task paired must hold other"),
        ({"fields": {}}, r"fields \(none\) of an item of task plain must hold text"),
        ({"meta": {"x": 1}}, r"meta \(x\) of an item of task plain must hold answer"),
    ],
)
def test_an_item_that_lacks_something_is_named_by_file_and_row(change, says, tmp_path):
    file = rows(tmp_path / "a.jsonl", GOOD, {**GOOD, **change})
    with pytest.raises(DataError, match=says) as caught:
        list(read("jsonl", "manners", file, FORMAT))
    assert f"{file}, row 2: " in str(caught.value)


def test_a_published_sets_items_are_checked_too(tmp_path):
    file = rows(tmp_path / "race_prompt.json", {"g": {"e": ["She is"]}})
    with pytest.raises(DataError, match=r"item 'race/g/e/0': task \(='bold'\) must be one of"):
        list(read("bold", "bold", file, FORMAT))


@pytest.mark.parametrize(
    ("counted_by", "meta", "group"),
    [
        ([], {"domain": "race"}, "plain"),
        (["domain", "group"], {"domain": "race", "group": 3}, "race/3"),
        (["domain"], {}, "plain"),
    ],
)
def test_a_limit_counts_by_task_or_by_entries_of_meta(counted_by, meta, group):
    format = ItemFormat({"plain": []}, counted_by=counted_by)
    assert format.group(BenchmarkItem("i", "plain", {}, "", meta)) == group


def test_a_format_without_tasks_is_refused():
    with pytest.raises(ConfigError, match=r"tasks of a benchmark \(=\{\}\)"):
        ItemFormat({})
