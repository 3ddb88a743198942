"""Exact search by FAISS: same as a loop, same in every batch, ties by row, one FAISS only."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from plumbrule.errors import ArtifactError, ConfigError
from rag.index import dense as vectors
from rag.index.dense import VectorIndex, import_faiss


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    drawn = rng.normal(size=(n, d)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_search_is_exact() -> None:
    rng = np.random.default_rng(0)
    stored, queries = unit(rng, 300, 24), unit(rng, 40, 24)
    for query, hits in zip(queries, VectorIndex.build(stored).search(queries, 7), strict=True):
        exact = stored.astype(np.float64) @ query.astype(np.float64)
        assert hits.rows.tolist() == np.argsort(-exact, kind="stable")[:7].tolist()
        assert hits.scores == pytest.approx(exact[hits.rows], abs=1e-6)
        assert hits.floor == hits.scores[-1]


def test_a_batch_gives_the_same_bits_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    stored, queries = unit(rng, 500, 384), unit(rng, 400, 384)
    index = VectorIndex.build(stored)
    together = index.search(queries, 5)
    for i, query in enumerate(queries):
        (alone,) = index.search(query[None], 5)
        assert alone.rows.tolist() == together[i].rows.tolist()
        assert alone.scores.tolist() == together[i].scores.tolist()


def test_ties_are_broken_by_row_also_where_they_straddle_the_cut() -> None:
    rng = np.random.default_rng(2)
    a, b = unit(rng, 2, 16)
    stored = np.stack([b, *[a] * 40, b])
    (hits,) = VectorIndex.build(stored).search(a[None], 5)
    assert hits.rows.tolist() == [1, 2, 3, 4, 5]
    (hits,) = VectorIndex.build(stored).search(b[None], 1)
    assert hits.rows.tolist() == [0]


def test_ties_are_broken_by_row_when_better_ones_come_last() -> None:
    """FAISS's heap then drops the ties that came first, which are those that should stay."""
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    stored = np.array([[0.6, 0.8]] * 40 + [[1.0, 0.0]] * 3, dtype=np.float32)
    (hits,) = VectorIndex.build(stored).search(query, 5)
    assert hits.rows.tolist() == [40, 41, 42, 0, 1]


def test_more_than_there_are_and_nothing_asked() -> None:
    stored = unit(np.random.default_rng(3), 3, 8)
    index = VectorIndex.build(stored)
    (hits,) = index.search(stored[:1], 10)
    assert sorted(hits.rows.tolist()) == [0, 1, 2]
    (nothing,) = index.search(np.zeros((1, 8), dtype=np.float32), 2)
    assert (len(nothing.rows), nothing.floor) == (0, 0.0)
    assert index.search(np.zeros((0, 8), dtype=np.float32), 2) == []


def test_the_file_is_an_idmap2_over_a_flat_index(tmp_path: Path) -> None:
    faiss = import_faiss()
    stored = unit(np.random.default_rng(4), 9, 8)
    VectorIndex.build(stored).save(tmp_path / "index.faiss")
    raw = faiss.read_index(str(tmp_path / "index.faiss"))
    assert isinstance(raw, faiss.IndexIDMap2)
    assert isinstance(faiss.downcast_index(raw.index), faiss.IndexFlatIP)
    index = VectorIndex.load(tmp_path / "index.faiss")
    assert (len(index), index.dimensions) == (9, 8)
    assert index.search(stored[4:5], 1)[0].rows.tolist() == [4]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"IxM2 and then nothing")
    with pytest.raises(ArtifactError, match=r"index\.faiss can't be read"):
        VectorIndex.load(tmp_path / "index.faiss")


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (("faiss-cpu", "faiss-gpu"), r"faiss-cpu and faiss-gpu\).*uninstall faiss-cpu faiss-gpu"),
        ((), r"\(=none\).*pip install"),
    ],
)
def test_exactly_one_faiss_must_be_installed(monkeypatch, present, message) -> None:
    real = metadata.distribution

    def distribution(name: str):
        if name in present:
            return real("faiss-cpu")
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(vectors.metadata, "distribution", distribution)
    with pytest.raises(ConfigError, match=message):
        import_faiss()


def test_what_an_approximate_index_does_not_find_is_no_passage() -> None:
    """HNSW asked for nearly all it holds fills up with row -1, which indexes from the end."""
    faiss = import_faiss()
    stored = unit(np.random.default_rng(5), 500, 16)
    raw = faiss.IndexHNSWFlat(16, 4, faiss.METRIC_INNER_PRODUCT)
    raw.hnsw.efSearch = 8
    raw.add(stored)
    _, rows = raw.search(stored[:20], 480)
    assert (rows < 0).any()  # or there would be nothing to see here
    for query, hits in zip(stored, VectorIndex(raw).search(stored[:20], 480), strict=False):
        assert 0 < len(hits.rows) <= 480
        assert hits.rows.min() >= 0
        assert len(set(hits.rows.tolist())) == len(hits.rows)
        assert hits.scores == pytest.approx(stored[hits.rows] @ query, abs=1e-5)
        assert hits.floor == hits.scores[-1]
