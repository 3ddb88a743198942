"""Exact search in torch: FAISS flat's results, in any batch, from any files, for any selection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbrule.errors import ArtifactError, ConfigError
from rag.index.dense import VectorIndex
from rag.index.exact import ExactIndex, highest_of
from rag.index.protocol import Selection
from rag.index.vector_files import ROWS, open_vectors, save_vectors


def unit(seed: int, n: int, d: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_finds_what_faiss_s_flat_index_finds() -> None:
    stored, queries = unit(0, 5000, 96), unit(1, 300, 96)
    exact = ExactIndex([stored], rows_at_once=1024)
    flat = VectorIndex.build(stored)
    for mine, theirs in zip(exact.search(queries, 10), flat.search(queries, 10), strict=True):
        assert mine.rows.tolist() == theirs.rows.tolist()
        assert mine.scores == pytest.approx(theirs.scores, abs=1e-6)
        assert mine.floor == mine.scores[-1]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 700),
    distinct=st.integers(1, 60),
    depth=st.integers(1, 40),
    step=st.integers(1, 300),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 10**6),
)
def test_is_a_float64_loop_with_ties_by_row_for_any_sizes_and_selection(
    n: int, distinct: int, depth: int, step: int, share: float, seed: int
) -> None:
    """Few distinct vectors, so that most scores tie; small blocks, so that ties straddle them."""
    draw = np.random.default_rng(seed)
    stored = unit(seed, distinct, 12)[draw.integers(distinct, size=n)]
    mask = draw.random(n) < share
    queries = unit(seed + 1, 3, 12)
    parts = [part for part in np.array_split(stored, 3) if len(part)]
    found = ExactIndex(parts, rows_at_once=step).search(queries, depth, Selection(mask))
    for query, hits in zip(queries, found, strict=True):
        scores = (stored.astype(np.float64) * query.astype(np.float64)).sum(1).astype(np.float32)
        rows = np.flatnonzero(mask)
        right = rows[np.lexsort((rows, -scores[rows]))][:depth]
        assert hits.rows.tolist() == right.tolist()
        assert hits.scores.tolist() == scores[right].tolist()


def test_a_batch_gives_the_same_bits_as_one_by_one() -> None:
    stored, queries = unit(2, 3000, 384), unit(3, 40, 384)
    index = ExactIndex([stored])
    for query, hits in zip(queries, index.search(queries, 5), strict=True):
        (alone,) = index.search(query[None], 5)
        assert alone.rows.tolist() == hits.rows.tolist()
        assert alone.scores.tolist() == hits.scores.tolist()


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 900), width=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_groups_of_columns_hold_the_highest(n: int, width: int, seed: int) -> None:
    scores = torch.randint(0, 50, (4, n), generator=torch.Generator().manual_seed(seed)).float()
    found, columns = highest_of(scores, width)
    assert torch.equal(scores.gather(1, columns), found)
    assert torch.equal(found.sort(1).values, scores.topk(min(width, n)).values.sort(1).values)
    assert all(len(set(row)) == len(row) for row in columns.tolist())


def test_more_than_there_are_and_nothing_asked() -> None:
    stored = unit(4, 3, 8)
    index = ExactIndex([stored])
    (hits,) = index.search(stored[:1], 10)
    assert sorted(hits.rows.tolist()) == [0, 1, 2]
    nothing = index.search(np.zeros((2, 8), dtype=np.float32), 2)
    assert [(len(hits.rows), hits.floor) for hits in nothing] == [(0, 0.0)] * 2
    assert index.search(np.zeros((0, 8), dtype=np.float32), 2) == []


@pytest.mark.parametrize("make", [VectorIndex.build, lambda vectors: ExactIndex([vectors])])
def test_nan_and_queries_of_another_length_are_refused(make) -> None:
    index = make(unit(5, 20, 8))
    wrong = unit(5, 3, 8)
    wrong[1, 2] = np.nan
    with pytest.raises(ConfigError, match=r"queries' vectors \(row 1\) must be finite"):
        index.search(wrong, 2)
    with pytest.raises(ConfigError, match=r"\(1, 7\).* must have the index's 8 dimensions"):
        index.search(unit(5, 1, 7), 2)
    with pytest.raises(ConfigError, match=r"passages' vectors \(row 1\) must be finite"):
        VectorIndex.build(wrong)


def test_files_are_mapped_and_in_order(tmp_path: Path) -> None:
    stored = unit(6, 25, 8)
    save_vectors([stored[:10], stored[10:]], tmp_path, rows_a_file=7)
    parts = open_vectors(tmp_path)
    assert [len(part) for part in parts] == [7, 3, 7, 7, 1]
    assert all(isinstance(part, np.memmap) for part in parts)
    assert np.array_equal(np.concatenate(parts), stored)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    index = ExactIndex.load(tmp_path)
    assert [hits.rows[0] for hits in index.search(stored, 1)] == list(range(25))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("damage", ["cut", "missing", "list", "other"])
def test_files_that_are_cut_short_or_of_another_index_are_refused(
    tmp_path: Path, damage: str
) -> None:
    save_vectors([unit(7, 30, 8)], tmp_path, rows_a_file=20)
    path = tmp_path / "00001.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    elif damage == "list":
        (tmp_path / ROWS).write_text("{}", encoding="utf-8")
    else:
        save_vectors([unit(7, 5, 8)], tmp_path / "other")
        path.write_bytes((tmp_path / "other" / "00000.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match=r"can't be read .*build the index again"):
        ExactIndex.load(tmp_path)


@pytest.mark.gpu
def test_on_a_gpu_it_is_filled_in_blocks_and_finds_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA")
    n, d = 200_000, 128
    stored, queries = unit(8, n, d), unit(9, 64, d)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    index = ExactIndex([stored[: n // 3], stored[n // 3 :]], "cuda", rows_at_once=8192)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= 2 * n * d + 4 * 8192 * d + 2**21  # the index in float16 and one block
    rounded = ExactIndex([stored.astype(np.float16).astype(np.float32)])
    for mine, theirs in zip(index.search(queries, 10), rounded.search(queries, 10), strict=True):
        assert mine.rows.tolist() == theirs.rows.tolist()
        assert mine.scores == pytest.approx(theirs.scores, abs=1e-6)
