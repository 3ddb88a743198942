"""A type of dense index of your own: HNSW, which is approximate and fast for many passages.

Build the index of the documents with it:
    plumbrule --plugin docs/examples/dense_index.py rag.dense_index=hnsw run.only=index

`python docs/examples/dense_index.py` finds the nearest of a hundred vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rag.index.dense import VectorIndex, import_faiss
from rag.options import DENSE_INDEXES


@DENSE_INDEXES.register("linked")
def linked(vectors: np.ndarray) -> Any:
    """Return an empty FAISS index for vectors (n, d) of unit length or zero.

    It must compare by the inner product. One that is trained, such as IVF, is trained on `vectors`
    here; they are added afterwards. What it does not find (row -1) is no passage.
    """
    faiss = import_faiss()
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.hnsw.efSearch = 64
    return index


if __name__ == "__main__":
    drawn = np.random.default_rng(0).normal(size=(100, 16))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    (hits,) = VectorIndex.build(vectors, linked).search(vectors[7:8], depth=3)
    print(hits.rows[0])  # 7
