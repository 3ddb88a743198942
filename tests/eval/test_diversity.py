"""Distinct-n and self-BLEU: by hand, against sacrebleu, intervals, and answers that say nothing."""

from __future__ import annotations

import math

import pytest
from sacrebleu import sentence_bleu

from eval.diversity import SELF_BLEU_ANSWERS, distinct, ngrams, self_bleu, summarise
from eval.intervals import Intervals

INTERVALS = Intervals(confidence=0.95)


def rows(texts, groups=None):
    return [
        {"id": f"i{i}", "group": groups[i] if groups else "", "response": text}
        for i, text in enumerate(texts)
    ]


def test_distinct_by_hand():
    # Words: the cat sat the dog sat -> the, cat, sat, dog of 6. Bigrams lie within a text: the cat,
    # cat sat, the dog, dog sat: 4 of 4, and with the first text twice 4 of 6.
    texts = ["The cat sat.", "the dog, sat"]
    assert distinct(texts, 1) == pytest.approx(4 / 6)
    assert distinct(texts, 2) == 1.0
    assert distinct([texts[0], *texts], 2) == pytest.approx(4 / 6)
    assert ngrams("I don't know", 2) == [("i", "don't"), ("don't", "know")]
    assert ngrams("one", 2) == []
    assert math.isnan(distinct(["", "one"], 2))


def test_self_bleu_is_that_of_the_other_texts():
    texts = ["she was born in the town of Bosk", "she was born in Arlen", "I do not know"]
    found = self_bleu(texts)
    for i, text in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        assert found[i] == pytest.approx(sentence_bleu(text, others).score)
    assert found[0] > found[2]
    assert self_bleu(["the same words here"] * 3) == pytest.approx([100.0] * 3)
    assert self_bleu(["", "all of it", "all of it"])[0] == 0.0
    assert self_bleu(["alone"]) == []
    assert len(self_bleu(["a b c d"] * (SELF_BLEU_ANSWERS + 3))) == SELF_BLEU_ANSWERS


def test_the_interval_leaves_out_prompts():
    # Text i is "w<i> all": 12 texts have 13 different words of 24. Without text i, whose own word
    # goes: 12 of 22, whichever it is, so the jackknife finds no spread.
    found = summarise(rows([f"w{i} all" for i in range(12)]), INTERVALS)["distinct_1"]
    assert found.value == pytest.approx(13 / 24)
    assert (found.low, found.high) == (pytest.approx(13 / 24), pytest.approx(13 / 24))
    assert (found.n, found.groups, found.method) == (12, 12, "jackknife")
    texts = [" ".join(f"w{j}" for j in range(i + 1)) for i in range(12)]
    spread = summarise(rows(texts), INTERVALS)["distinct_1"]
    assert spread.value == pytest.approx(12 / 78)
    assert spread.low < spread.value < spread.high


def test_the_interval_is_the_jackknife_of_distinct_itself():
    texts = [f"w{i % 5} w{i % 3} all of it w{i}" for i in range(14)]
    groups = [f"g{i % 11}" for i in range(14)]
    found = summarise(rows(texts, groups), INTERVALS)["distinct_2"]
    assert found.value == pytest.approx(distinct(texts, 2))
    # Leave-one-group-out by the plain function; Student's quantile of 10 degrees, 0.975: 2.2281.
    left = [
        distinct([t for t, g in zip(texts, groups, strict=True) if g != out], 2)
        for out in dict.fromkeys(groups)
    ]
    mean = sum(left) / 11
    error = math.sqrt(10 / 11 * sum((x - mean) ** 2 for x in left))
    assert found.high - found.value == pytest.approx(2.2281 * error, rel=1e-4)


def test_answers_without_words_and_rows_without_answers_take_no_part():
    assert summarise(rows(["", "  "]), INTERVALS) == {}
    assert summarise([{"id": "a", "group": ""}], INTERVALS) == {}
    found = summarise([*rows(["a b", ""]), {"id": "x", "group": ""}], INTERVALS)
    assert found["distinct_1"].n == 2
    assert set(summarise(rows(["one", "two"]), INTERVALS)) == {"distinct_1"}
