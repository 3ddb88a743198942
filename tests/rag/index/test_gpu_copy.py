"""A copy on a GPU nominates where it can; without a GPU it is refused before any search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from rag.config import IndexConfig, check_inputs
from rag.index.approximate import ApproximateIndex
from rag.index.dense import VectorIndex, import_faiss
from rag.index.exact import ExactIndex
from rag.index.gpu_copy import MOST_NEAREST, GPUCopy
from rag.index.presets import PRESETS, from_factory
from rag.index.protocol import Selection
from rag.index.vector_files import save_vectors


def parts() -> tuple[VectorIndex, ExactIndex]:
    drawn = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    coarse = VectorIndex.build(vectors, lambda training: from_factory("IVF16,Flat", training))
    return coarse, ExactIndex([vectors])


def test_a_faiss_without_a_gpu_is_refused_before_a_search(tmp_path: Path) -> None:
    if getattr(import_faiss(), "get_num_gpus", int)():
        pytest.skip("this FAISS has a GPU")
    coarse, stored = parts()
    coarse.save(tmp_path / "index.faiss")
    save_vectors([stored.take(np.arange(3000)).numpy()], tmp_path / "vectors")
    size = (tmp_path / "index.faiss").stat().st_size
    given = (tmp_path / "index.faiss", size, tmp_path / "vectors", 4)
    assert len(ApproximateIndex.load(*given)) == 3000
    with pytest.raises(ConfigError, match=r"runtime\.faiss_gpu \(=True\) must have faiss-gpu"):
        ApproximateIndex.load(*given, on_gpu=True)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_on_a_gpu_is_refused_while_planning(preset: str) -> None:
    on_gpu = RuntimeConfig(device="cpu", faiss_gpu=True)

    def check(**settings: Any) -> None:
        check_inputs(PlacedNode("index", "index", {}, IndexConfig(**settings)), on_gpu)

    with pytest.raises(ConfigError, match=rf"false for rag\.dense_index \(={preset}\)"):
        check(dense_index=preset)
    check(dense_index="factory", dense_factory="IVF16,Flat")
    check()


class Counted:
    """An index that counts the searches it gets."""

    def __init__(self, index: VectorIndex):
        self.index, self.searches = index, 0

    def nearest(self, vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        self.searches += 1
        return self.index.nearest(vectors, width)


def test_a_copy_nominates_for_whole_searches_alone() -> None:
    coarse, stored = parts()
    copy = Counted(coarse)
    index, queries = ApproximateIndex(coarse, stored, 4, copy), stored.take(np.arange(5)).numpy()
    assert [hits.rows[0] for hits in index.search(queries, 3)] == [0, 1, 2, 3, 4]
    index.search(queries, 3, Selection(np.ones(3000, dtype=bool)))
    assert copy.searches == 2
    some = Selection(np.arange(3000) < 1500)
    assert all((hits.rows < 1500).all() for hits in index.search(queries, 3, some))
    index.search(queries, MOST_NEAREST // 4 + 1)
    assert copy.searches == 2


def require_gpu() -> None:
    """Skip the test where there is no FAISS with a GPU, or none at all: scripts/gpu_check.sh runs
    there too.
    """
    pytest.importorskip("faiss")
    if not getattr(import_faiss(), "get_num_gpus", int)():
        pytest.skip("this FAISS has no GPU")


@pytest.mark.gpu
def test_finds_what_the_index_in_memory_finds() -> None:
    require_gpu()
    coarse, stored = parts()
    queries = stored.take(np.arange(50)).numpy()
    in_memory = ApproximateIndex(coarse, stored, 4).search(queries, 10)
    on_gpu = ApproximateIndex(coarse, stored, 4, GPUCopy(coarse)).search(queries, 10)
    for one, other in zip(in_memory, on_gpu, strict=True):
        assert one.rows.tolist() == other.rows.tolist()


@pytest.mark.gpu
def test_a_type_that_faiss_does_not_copy_is_refused() -> None:
    require_gpu()
    vectors = parts()[1].take(np.arange(3000)).numpy()
    graph = VectorIndex.build(vectors, lambda training: from_factory("HNSW32", training))
    with pytest.raises(ConfigError, match=r"runtime\.faiss_gpu"):
        GPUCopy(graph)
