"""A FAISS index on a GPU. Not run yet: it needs a machine with a GPU and the wheel `faiss-gpu`.

`tests/rag/index/test_faiss_gpu.py` holds what it must do and runs where FAISS has a GPU. FAISS's
classic GPU indexes remove nothing, ignore selectors and take k up to 2048, so a search that is
limited by a filter or a principal stays with the exact index (`exact.py`), and the copy is only
searched whole. Flat codes are float16 there; the copy is made in FAISS's own blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plumbrule.errors import ConfigError
from rag.index.dense import VectorIndex, import_faiss, inner_of
from rag.index.exact import ExactIndex
from rag.index.protocol import Hits, Selection
from rag.index.ranking import best
from rag.index.vector_checks import require_queries

MOST_NEAREST = 2048
"""Rows a query may ask for, of FAISS's classic GPU indexes."""


class GPUIndex:
    """A frozen index over vectors 0..n-1 (`VectorSearch`), searched on a GPU.

    Args: coarse: copied to the GPU. stored: the same vectors; scores what is found again, and
        answers limited searches. device: number of the GPU.
    Raises: ConfigError: this FAISS has no GPU.
    """

    def __init__(self, coarse: VectorIndex, stored: ExactIndex, nominated: int, device: int = 0):
        faiss = import_faiss()
        number = getattr(faiss, "get_num_gpus", int)()
        if device >= number:
            raise ConfigError(
                f"faiss (={number} GPUs) must be faiss-gpu on a machine with GPU {device}; install "
                "it, or use rag.dense_index=exact, which needs torch alone."
            )
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True
        self._resources = faiss.StandardGpuResources()
        inner: Any = inner_of(coarse.raw)
        self._index = faiss.index_cpu_to_gpu(self._resources, device, inner, options)
        self._stored, self._nominated = stored, nominated
        self.dimensions = stored.dimensions

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._stored)

    def search(
        self, vectors: np.ndarray, depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return each query's `depth` nearest selected rows, as far as they are nominated.

        Args: vectors: (q, d) float32.
        """
        width = min(depth * self._nominated, len(self))
        if selection is not None or width > MOST_NEAREST or width == 0 or not len(vectors):
            return self._stored.search(vectors, depth, selection)
        require_queries(vectors, self.dimensions)
        _, rows = self._index.search(np.ascontiguousarray(vectors, dtype=np.float32), width)
        scores = self._stored.scores(vectors, np.maximum(rows, 0))
        asked = np.any(vectors != 0, axis=1)
        found = []
        for is_asked, one_rows, one_scores in zip(asked, rows, scores, strict=True):
            top_rows, top = best(one_rows, one_scores, depth if is_asked else 0)
            found.append(Hits(top_rows, top, floor=float(top[-1]) if len(top) else 0.0))
        return found
