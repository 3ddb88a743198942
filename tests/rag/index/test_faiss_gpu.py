"""FAISS on a GPU; without one, that it says so."""

from __future__ import annotations

import numpy as np
import pytest

from plumbrule.errors import ConfigError
from rag.index.dense import VectorIndex, import_faiss
from rag.index.exact import ExactIndex
from rag.index.faiss_gpu import GPUIndex


def parts() -> tuple[VectorIndex, ExactIndex]:
    drawn = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return VectorIndex.build(vectors), ExactIndex([vectors])


def test_a_faiss_without_a_gpu_is_refused() -> None:
    if getattr(import_faiss(), "get_num_gpus", int)():
        pytest.skip("this FAISS has a GPU")
    with pytest.raises(ConfigError, match=r"faiss \(=0 GPUs\) must be faiss-gpu .*exact"):
        GPUIndex(*parts(), nominated=4)


@pytest.mark.gpu
def test_finds_what_exact_search_finds() -> None:
    if not getattr(import_faiss(), "get_num_gpus", int)():
        pytest.skip("this FAISS has no GPU")
    coarse, stored = parts()
    queries = stored.take(np.arange(50)).numpy()
    exact = stored.search(queries, 10)
    for one, other in zip(exact, GPUIndex(coarse, stored, 4).search(queries, 10), strict=True):
        assert one.rows.tolist() == other.rows.tolist()
