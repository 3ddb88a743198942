"""Ties, scaling and fusion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.index.protocol import Hits
from rag.index.ranking import best, fuse, scaled


def hits(pairs: list[tuple[int, float]], floor: float) -> Hits:
    return Hits(np.array([r for r, _ in pairs]), np.array([s for _, s in pairs]), floor)


@settings(max_examples=300, deadline=None)
@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    depth=st.integers(0, 35),
    seed=st.integers(0, 99),
)
def test_best_is_a_sort_by_falling_score_and_rising_row(scores, depth, seed) -> None:
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    rows, top = best(shuffled, np.array(scores, dtype=float)[shuffled], depth)
    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:depth]
    assert rows.tolist() == expected
    assert top.tolist() == [scores[row] for row in expected]


def test_scaled_by_hand() -> None:
    # floor 2, best 10: (10-2)/8, (4-2)/8, (2-2)/8.
    assert scaled(hits([(0, 10.0), (1, 4.0), (2, 2.0)], 2.0)).tolist() == [1.0, 0.25, 0.0]
    assert scaled(hits([(0, 3.0), (1, 3.0)], 3.0)).tolist() == [1.0, 1.0]
    assert scaled(hits([], 0.0)).tolist() == []


def test_fuse_by_hand() -> None:
    dense = hits([(5, 0.9), (1, 0.5), (7, 0.1)], 0.1)  # scaled 1, 0.5, 0
    keyword = hits([(1, 8.0), (2, 6.0)], 0.0)  # scaled 1, 0.75
    fused = fuse(dense, keyword, 0.5, 10)
    # 1: .5*.5 + .5*1 = .75; 5: .5*1 = .5; 2: .5*.75 = .375; 7: 0
    assert fused.rows.tolist() == [1, 5, 2, 7]
    assert fused.scores.tolist() == pytest.approx([0.75, 0.5, 0.375, 0.0], abs=1e-12)
    assert fuse(dense, keyword, 0.25, 2).rows.tolist() == [1, 2]  # .875, .5625 before 5: .25


def test_either_extreme_weight_is_a_method_of_its_own() -> None:
    dense = hits([(5, 0.9), (1, 0.5)], 0.5)
    keyword = hits([(2, 8.0), (1, 6.0)], 0.0)
    assert fuse(dense, keyword, 1.0, 1).rows.tolist() == [5]
    assert fuse(dense, keyword, 0.0, 2).rows.tolist() == [2, 1]


def test_a_method_that_found_nothing_leaves_the_other_alone() -> None:
    nothing = Hits(np.array([], dtype=np.int64), np.array([]), 0.0)
    fused = fuse(nothing, hits([(4, 2.0), (3, 1.0)], 0.0), 0.5, 5)
    assert fused.rows.tolist() == [4, 3]
    assert len(fuse(nothing, nothing, 0.5, 5).rows) == 0


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_pools_of_the_whole_corpus_give_exact_min_max_scaling_over_it(seed) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 20))
    dense, keyword = rng.normal(size=n), np.maximum(rng.normal(size=n), 0.0)
    every = np.arange(n)
    matching = np.flatnonzero(keyword > 0)
    keyword_pool = best(matching, keyword[matching], n)
    floor = float(keyword_pool[1][-1]) if len(matching) == n else 0.0
    dense_hits = Hits(*best(every, dense, n), float(dense.min()))
    fused = fuse(dense_hits, Hits(*keyword_pool, floor), 0.5, n)

    def whole(x: np.ndarray) -> np.ndarray:
        return (x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else np.zeros(n)

    expected = 0.5 * whole(dense) + 0.5 * whole(keyword)
    order = sorted(range(n), key=lambda row: (-expected[row], row))
    assert np.allclose(fused.scores, expected[order], atol=1e-12)


def test_a_row_that_is_not_there_and_a_score_that_is_no_number_are_no_passages() -> None:
    rows = np.array([4, -1, 2, 3, 1])
    scores = np.array([0.5, 9.0, np.nan, np.inf, 0.25])
    kept, top = best(rows, scores, 5)
    assert (kept.tolist(), top.tolist()) == ([4, 1], [0.5, 0.25])
