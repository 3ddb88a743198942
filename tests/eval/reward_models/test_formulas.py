"""The formulas of RewardBench 2 and RM-Bench, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.reward_models.formulas import (
    TIES_WEIGHTS,
    best_of,
    pair_share,
    style_matrix,
    tie_facts,
    ties_score,
)


def test_the_best_of_four_must_be_above_all_others():
    assert best_of([2.0, 1.0, 0.0, -1.0], [0]) == 1.0
    assert best_of([2.0, 3.0, 0.0, -1.0], [0]) == 0.0


def test_a_tie_at_the_top_is_worth_a_draw_of_one_of_them():
    assert best_of([2.0, 2.0, 0.0, 2.0], [0]) == pytest.approx(1 / 3)
    assert best_of([0.0] * 4, [0]) == 0.25  # a model that gives every answer one score
    assert best_of([2.0, 2.0, 2.0, 0.0], [0, 1]) == pytest.approx(2 / 3)


def test_pairs_share_a_tie():
    assert [pair_share(*p) for p in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))] == [1.0, 0.0, 0.5]


def test_facts_of_a_question_with_several_right_answers():
    # right 5, 3, 4: spread 2; wrong 1, 2: the gap is 3 - 2 = 1.
    assert tie_facts([5.0, 3.0, 4.0], [1.0, 2.0]) == (1.0, 1.0, 2.0)
    assert tie_facts([5.0, 2.0], [2.0]) == (0.0, 0.0, 3.0)  # a gap of 0 is not accurate


def test_the_ties_score_by_hand():
    # Two questions. 1: gap 3, reference gap 2, spread 1. 2: gap -1, reference gap 4, spread 2.
    # Accuracy of tied 1/2, of reference 2/2. gap > spread: 1/2. min gap > spread: 2 > 1 and
    # -1 > 2 no: 1/2. tanh(2/1 - 1) = 0.76159, tanh(-1/2 - 1) = -0.90515: mean -0.07178.
    # .3 / 2 + .3 + .2 / 2 + .2 / 2 - .01 x .07178 = 0.6492822.
    found = ties_score(
        np.array([1.0, 0.0]),
        np.array([1.0, 1.0]),
        np.array([3.0, -1.0]),
        np.array([2.0, 4.0]),
        np.array([1.0, 2.0]),
    )
    assert found == pytest.approx(0.65 + 0.01 * (math.tanh(1) + math.tanh(-1.5)) / 2)
    assert found == pytest.approx(0.6492822, abs=1e-7)


def test_the_weights_of_the_ties_score_add_up_to_more_than_one():
    """As in the authors' script: right answers without any spread come to 1.01."""
    assert sum(TIES_WEIGHTS) == pytest.approx(1.01)
    one, gap, none = np.ones(3), np.full(3, 2.0), np.zeros(3)
    assert ties_score(one, one, gap, gap, none) == pytest.approx(1.01)


def test_scores_that_are_all_equal_have_no_margin():
    """0 / 0 counts 0, as the script's nan_to_num has it."""
    none = np.zeros(2)
    assert ties_score(none, none, none, none, none) == 0.0


def test_the_matrix_of_styles_by_hand():
    # right 1, 2, 6; wrong 0, 3, 5, in the order concise, detailed, markdown.
    # above: 1 > 0; 2 > 0; 6 > 0, 3, 5. Upper: (0,1) 1 > 3 no, (0,2) no, (1,2) no: hard 0.
    # Diagonal: 1 > 0 yes, 2 > 3 no, 6 > 5 yes: 2/3. Lower: (1,0), (2,0), (2,1) yes: 1.
    found = style_matrix([1.0, 2.0, 6.0], [0.0, 3.0, 5.0])
    assert found["hard"] == 0.0
    assert found["normal"] == pytest.approx(2 / 3)
    assert found["easy"] == 1.0
    assert found["accuracy"] == pytest.approx(5 / 9)


def test_hard_is_where_the_wrong_answer_has_the_fancier_style():
    # The right concise answer beats all, the other right ones none: (0,1), (0,2) of the upper 3.
    found = style_matrix([9.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert found["hard"] == pytest.approx(2 / 3)
    assert found["normal"] == pytest.approx(1 / 3)
    assert found["easy"] == 0.0


def test_a_tie_of_styles_is_not_above():
    assert style_matrix([1.0] * 3, [1.0] * 3)["accuracy"] == 0.0
