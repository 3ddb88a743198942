"""Dense search by FAISS, exact or approximate. The only module that imports faiss.

Vectors are of unit length or zero, so the inner product is the cosine. The index, of the type that
`rag.dense_index` names (`rag/options.py`), lies inside an `IndexIDMap2`: a flat index alone
renumbers its vectors when one is removed, and takes no ids of its own.

FAISS multiplies large batches with BLAS and small ones without, which rounds differently, so the
score of a passage could depend on how many other queries were asked. `import_faiss` turns the BLAS
path off: one query gets the same bits as a thousand. That costs up to half the speed in large
batches, and nothing that training notices. How many threads FAISS uses is the environment's choice
(OMP_NUM_THREADS).

Where an approximate index (HNSW, IVF) finds fewer rows than it is asked for it fills up with row
-1; those are dropped, so a query may get fewer than `depth`, as one of BM25 may. A type of index is
a function in one file, which a plug-in may hold:

    from rag.index.dense import import_faiss
    from rag.options import DENSE_INDEXES

    @DENSE_INDEXES.register("hnsw")
    def hnsw(vectors):
        faiss = import_faiss()
        return faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)

It is given the passages' vectors, to train on them if it must, and returns the index empty.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.errors import ArtifactError, ConfigError
from rag.index.protocol import Hits
from rag.index.ranking import best

WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12")
"""Distributions that install the module `faiss`."""
NO_BLAS_BELOW = 2**30


def import_faiss() -> Any:
    """Return the module faiss, set up so that scores do not depend on the batch.

    Raises: ConfigError: no distribution of it is installed, or more than one: they overwrite each
        other's files, and which of them then answers is chance.
    """
    installed = [name for name in WHEELS if _is_installed(name)]
    if len(installed) != 1:
        has = " and ".join(installed) or "none"
        remove = f"pip uninstall {' '.join(installed)}, then " if installed else ""
        raise ConfigError(
            f"faiss (={has}) must be installed exactly once, as faiss-cpu or as faiss-gpu; "
            f"{remove}pip install one of the two."
        )
    import faiss

    faiss.cvar.distance_compute_blas_threshold = NO_BLAS_BELOW
    return faiss


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def flat(vectors: np.ndarray) -> Any:
    """Compare with every vector: exact."""
    return import_faiss().IndexFlatIP(vectors.shape[1])


class VectorIndex:
    """A frozen index over vectors 0..n-1: a `SearchIndex` of vectors."""

    def __init__(self, index: Any):
        self._index = index

    @classmethod
    def build(cls, vectors: np.ndarray, make: Callable[[np.ndarray], Any] = flat) -> VectorIndex:
        """Return the index of `vectors` (n, d) float32, whose places are their rows.

        Args: make: an entry of `DENSE_INDEXES`.
        Raises: ConfigError: an index that does not compare by the inner product.
        """
        faiss = import_faiss()
        inner = make(vectors)
        if inner.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ConfigError(
                f"rag.dense_index (={type(inner).__name__}) must compare by the inner product, "
                "higher being nearer; make it with METRIC_INNER_PRODUCT."
            )
        index = faiss.IndexIDMap2(inner)
        index.add_with_ids(np.ascontiguousarray(vectors), np.arange(len(vectors), dtype=np.int64))
        return cls(index)

    def save(self, path: Path) -> None:
        """Write the index in FAISS's own format."""
        import_faiss().write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path) -> VectorIndex:
        """Return the index that `save` wrote.

        Raises: ArtifactError: the file is damaged.
        """
        faiss = import_faiss()
        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ArtifactError(
                f"vector index {path} can't be read ({reason}); build the index again."
            ) from None

    @property
    def dimensions(self) -> int:
        """Return the length of a vector."""
        return self._index.d

    def __len__(self) -> int:
        """Return the number of vectors."""
        return self._index.ntotal

    def search(self, vectors: np.ndarray, depth: int) -> list[Hits]:
        """Return each query's `depth` nearest rows, at most; none for a zero vector.

        FAISS leaves open which of several equal scores takes the last place. So one more place is
        asked for, and more again while that one ties with the last.

        Args: vectors: (q, d) float32.
        """
        depth = min(depth, len(self))
        width = min(depth + 1, len(self))
        while True:
            scores, rows = self._index.search(np.ascontiguousarray(vectors), width)
            asked = np.any(vectors != 0, axis=1)
            # what is missing (row -1) has the same least score everywhere, and ties with nothing
            tied = asked & (rows[:, -1] >= 0) & (scores[:, -1] >= scores[:, depth - 1])
            if width == len(self) or not tied.any():
                break
            width = min(2 * width, len(self))
        found = []
        for is_asked, one_rows, one_scores in zip(asked, rows, scores, strict=True):
            top_rows, top = best(one_rows, one_scores, depth if is_asked else 0)
            found.append(Hits(top_rows, top, floor=float(top[-1]) if len(top) else 0.0))
        return found
