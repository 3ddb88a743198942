"""The commonest of several answers, by hand."""

from __future__ import annotations

import pytest

from eval.majority import Majority, majority


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a"], Majority(0, 1.0, False)),
        (["a", "b", "b"], Majority(1, 2 / 3, False)),
        (["b", "a", "a", "b"], Majority(0, 0.5, True)),  # a tie is the first one's
        (["a", "b", "c"], Majority(0, 1 / 3, True)),
        ([2, 0, 0, 2, 2], Majority(0, 0.6, False)),
    ],
)
def test_the_commonest_answer_counts_and_of_several_the_first(answers, expected):
    assert majority(answers) == expected


def test_no_answers_have_no_majority():
    with pytest.raises(ValueError, match="must be at least one"):
        majority([])
