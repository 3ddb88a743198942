"""A copy of an approximate FAISS index on a GPU. Not run yet: it needs the wheel `faiss-gpu` there.

    plumbrule runtime.faiss_gpu=true rag.dense_index=factory 'rag.dense_factory="IVF4096,PQ48"'

FAISS copies inverted lists that a flat quantiser finds, with flat, scalar or 8-bit product codes.
It copies no graphs, no 4-bit codes and no scalar codes without lists, so it refuses every preset. A
copy takes no selection of rows and at most 2,048 rows a query; where there is one, or more are
asked for, the index in memory nominates. What a copy must do: `tests/rag/index/test_gpu_copy.py`.
"""

from __future__ import annotations

import numpy as np

from plumbrule.errors import ConfigError
from rag.index.dense import VectorIndex, import_faiss

MOST_NEAREST = 2048
"""Rows a query may ask for, of FAISS's GPU indexes."""


class GPUCopy:
    """The copy of an index on a GPU. Its codes are those of the index.

    Args: device: number of the GPU.
    Raises: ConfigError: this FAISS has no such GPU, or the type of the index can't be copied.
    """

    def __init__(self, index: VectorIndex, device: int = 0):
        faiss = import_faiss()
        number = getattr(faiss, "get_num_gpus", int)()
        if device >= number:
            raise ConfigError(
                f"runtime.faiss_gpu (=True) must have faiss-gpu and GPU {device}; this FAISS sees "
                f"{number}. Install it, or use rag.dense_index=exact, which needs torch alone."
            )
        self._resources = faiss.StandardGpuResources()
        try:
            self._index = faiss.index_cpu_to_gpu(self._resources, device, index.raw)
        except RuntimeError as error:
            raise ConfigError(
                "runtime.faiss_gpu (=True) must be of an index that FAISS copies to a GPU, such as "
                f"rag.dense_index=factory with rag.dense_factory=IVF4096,Flat: {error}"
            ) from error

    def nearest(self, vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return FAISS's scores (q, width) and rows, -1 where it finds nothing."""
        return self._index.search(np.ascontiguousarray(vectors, dtype=np.float32), width)
