"""Perplexity by hand, its windows, and against one pass over a whole text."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from worlds.evaluation import small_config, small_policy

from eval.benchmarks.perplexity import (
    BENCHMARK,
    asked,
    bits_per_byte,
    measure,
    perplexity,
    summarise,
    windows,
)
from eval.benchmarks.subject import Subject
from eval.intervals import Intervals
from plumbrule.data.readers import read
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.response_logprobs import response_logprobs
from plumbrule.lm.token_rows import TokenRow
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker


def item(id, text):
    return BenchmarkItem(id, "perplexity", {"text": text})


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def subject(policy, **settings):
    config = small_config(**settings)
    runtime = RuntimeConfig(device="cpu", micro_batch_size=4)
    return Subject(policy, None, None, config, runtime, NullTracker())


def test_both_by_hand():
    # 4 + 2 nats over 3 + 1 tokens: exp(1.5); over 6 + 2 bytes: 6 / (8 ln 2).
    nats = np.array([4.0, 2.0])
    assert perplexity(nats, np.array([3.0, 1.0])) == pytest.approx(math.exp(1.5))
    assert bits_per_byte(nats, np.array([6.0, 2.0])) == pytest.approx(6 / (8 * math.log(2)))


@pytest.mark.parametrize(
    ("number", "context", "stride", "expected"),
    [
        (5, 8, 4, [(0, 1, 5)]),
        (8, 8, 4, [(0, 1, 8)]),
        (11, 8, 4, [(0, 1, 8), (4, 8, 11)]),
        (13, 8, 4, [(0, 1, 8), (4, 8, 12), (8, 12, 13)]),
        (1, 8, 4, []),
    ],
)
def test_each_token_is_scored_once_behind_what_its_window_holds(number, context, stride, expected):
    found = windows(number, context, stride)
    assert found == expected
    scored = [k for _, first, end in found for k in range(first, end)]
    assert scored == list(range(1, number))


def test_a_short_text_is_one_pass_behind_the_beginning_of_text(policy):
    text = "Where was she born?"
    measured = measure([item("a", text)], "closed", subject(policy))
    tokens = policy.tokenizer.encode(text, add_special_tokens=False)
    row = TokenRow((policy.tokenizer.bos_token_id,), tuple(tokens))
    assert measured.items[0]["nats"] == pytest.approx(
        -response_logprobs(policy, [row], 1).item(), abs=1e-4
    )
    assert measured.items[0]["tokens"] == len(tokens)
    assert measured.items[0]["bytes"] == len(text)
    assert (
        "behind the beginning-of-text token, windows of 96 tokens, stride 48" in measured.notes[0]
    )


def test_a_long_text_is_read_in_windows_and_a_random_policy_finds_all_tokens_alike(policy):
    items = [item(str(k), f"born in Arlen {k} " * 60) for k in range(10)]
    measured = measure(items, "closed", subject(policy, perplexity_stride=30))
    found = summarise(measured.items, Intervals(0.95))
    assert {one.method for one in found.values()} == {"jackknife"}
    assert all(row["tokens"] > 200 for row in measured.items)
    assert found["perplexity"].value == pytest.approx(420, rel=0.2)  # of 420 tokens
    assert found["perplexity"].is_bounded
    assert set(found) == set(BENCHMARK.metrics)


def test_a_stride_longer_than_the_context_is_refused(policy):
    with pytest.raises(ConfigError, match=r"eval.perplexity_stride \(=96 tokens\) must be below"):
        measure([item("a", "x")], "closed", subject(policy, perplexity_stride=96))
    with pytest.raises(ConfigError, match=r"eval.perplexity_stride \(=0 tokens\)"):
        small_config(perplexity_stride=0)


def test_texts_come_from_a_table_as_they_are(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"text": " a\n", "url": "x"}, {"text": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read("perplexity", "perplexity", path, BENCHMARK.items)
    assert first.record.fields == {"text": " a\n"}
    assert first.unread == ("url",)
    assert second.dropped == "the text is empty"
    path.write_text('{"body": "x"}\n')
    with pytest.raises(DataError, match=r"t.jsonl, row 1: text \(=None\) must be text"):
        list(read("perplexity", "perplexity", path, BENCHMARK.items))
    with pytest.raises(DataError, match="must have a text"):
        asked([item("a", " ")], small_config())
