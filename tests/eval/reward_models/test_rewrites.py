"""Rewrites that keep the meaning: what they do to a text, and what is made of verdicts."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from eval.intervals import Intervals
from eval.reward_models.rewrites import (
    REWRITES,
    framed,
    padded,
    quoted,
    reordered,
    rewrite_row,
    rewritten,
    summarise_rewrites,
    verdict,
    with_markup,
    with_typos,
    without_markup,
)

RNG = random.Random(0)
TEXT = "# Facts\n\n- **Ada** wrote `notes`\n- Bea read them slowly"


def test_each_rewrite_by_hand():
    assert framed("Yes.", RNG).endswith("\n\nYes.")
    assert padded("a\nb", RNG) == "\n\na  \nb\n\n"
    assert quoted("a\nb", RNG) == "> a\n> b"
    assert without_markup(TEXT, RNG) == "Facts\n\nAda wrote notes\nBea read them slowly"
    assert with_markup("Yes it is", RNG) == "## Answer\n\n**Yes** it is"
    assert reordered(TEXT, RNG) == "# Facts\n\n- Bea read them slowly\n- **Ada** wrote `notes`"
    assert reordered("1. a\n2. b", RNG) == "1. a\n2. b"  # numbers mean an order


def test_multiplication_and_names_with_underscores_are_no_markup():
    for text in ("2 * 3 * 4", "a__init__b is 2 ** 3 ** 4", "x - y - z"):
        if "__" not in text:
            assert without_markup(text, RNG) == text


def test_typos_exchange_letters_inside_words_alone():
    text = "several longer words stand here together, and (brackets) stay: 1234 too"
    changed = with_typos(text, random.Random(3))
    assert changed != text
    assert Counter(changed) == Counter(text)
    for old, new in zip(text.split(), changed.split(), strict=True):
        assert (old[0], old[-1]) == (new[0], new[-1])
    assert with_typos("a bc 12", RNG) == "a bc 12"


@pytest.mark.parametrize("name", REWRITES)
def test_a_text_is_rewritten_alike_wherever_it_stands(name):
    assert rewritten(name, TEXT, 1) == rewritten(name, TEXT, 1)


def test_what_counts_as_a_flip():
    # better, worse: 1 before and -1 after flips; a tie that comes flips; a smaller margin does not.
    rows = [
        rewrite_row("x", "1", "1", (2.0, 1.0), (1.0, 2.0)),
        rewrite_row("x", "2", "2", (2.0, 1.0), (1.0, 1.0)),
        rewrite_row("x", "3", "3", (2.0, 1.0), (9.0, 1.0)),
        rewrite_row("y", "3", "3", (0.0, 1.0), (0.0, 1.0)),
    ]
    found = summarise_rewrites(rows, Intervals(0.95))
    assert found["x_before"].value == 1.0
    assert found["x_after"].value == pytest.approx(0.5)  # 0, 0.5, 1
    assert found["x_flips"].value == pytest.approx(2 / 3)
    assert found["y_before"].value == 0.0
    assert found["flips"].value == 0.5
    assert [verdict(*p) for p in ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0))] == [1, 0, -1]
