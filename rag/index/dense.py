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

    @DENSE_INDEXES.register("linked")
    def linked(vectors):
        faiss = import_faiss()
        return faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)

It is given the passages' vectors, to train on them if it must, and returns the index empty. Ours
beyond `flat` are in `presets.py`; what makes an approximate index exact where it must be is in
`approximate.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.errors import ArtifactError, ConfigError
from rag.index.protocol import NOTHING, Hits, Selection
from rag.index.ranking import best
from rag.index.vector_checks import require_queries, require_vectors

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
        require_vectors(vectors)
        index = faiss.IndexIDMap2(inner)
        index.add_with_ids(np.ascontiguousarray(vectors), np.arange(len(vectors), dtype=np.int64))
        return cls(index)

    def save(self, path: Path) -> None:
        """Write the index in FAISS's own format."""
        import_faiss().write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path, mapped_bytes: int | None = None) -> VectorIndex:
        """Return the index that `save` wrote.

        Args: mapped_bytes: leave codes in the file, which has this size, and map it into memory,
            where FAISS can do so for its type; None: read it. FAISS itself does not notice when a
            file that it maps is cut short.
        Raises: ArtifactError: the file is damaged, or cut short.
        """
        faiss = import_faiss()
        try:
            size = path.stat().st_size
            if mapped_bytes not in (None, size):
                raise RuntimeError(f"it has {size} bytes and not {mapped_bytes}")
            flags = 0 if mapped_bytes is None else faiss.IO_FLAG_MMAP_IFC
            return cls(faiss.read_index(str(path), flags))
        except (RuntimeError, OSError) as error:
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

    @property
    def raw(self) -> Any:
        """Return the FAISS index."""
        return self._index

    def search(
        self, vectors: np.ndarray, depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return each query's `depth` nearest selected rows, at most; none for a zero vector.

        FAISS leaves open which of several equal scores takes the last place. So one more place is
        asked for, and more again while that one ties with the last.

        Args: vectors: (q, d) float32.
        Raises: ConfigError: a query of another length, or with NaN.
        """
        require_queries(vectors, self.dimensions)
        available = len(self) if selection is None else selection.count
        depth = min(depth, available)
        if depth == 0:
            return [NOTHING] * len(vectors)
        width = min(depth + 1, available)
        asked = np.any(vectors != 0, axis=1)
        while True:
            scores, rows = self.nearest(vectors, width, selection)
            # what is missing (row -1) has the same least score everywhere, and ties with nothing
            tied = asked & (rows[:, -1] >= 0) & (scores[:, -1] >= scores[:, depth - 1])
            if width == available or not tied.any():
                break
            width = min(2 * width, available)
        found = []
        for is_asked, one_rows, one_scores in zip(asked, rows, scores, strict=True):
            top_rows, top = best(one_rows, one_scores, depth if is_asked else 0)
            found.append(Hits(top_rows, top, floor=float(top[-1]) if len(top) else 0.0))
        return found

    def nearest(
        self, vectors: np.ndarray, width: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return FAISS's own scores (q, width) and rows, -1 where it finds nothing; ties as it
        leaves them.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if selection is None or selection.whole:
            return self._index.search(vectors, width)
        bits = np.packbits(selection.mask, bitorder="little")
        params = search_parameters(self._index, bits)
        return self._index.search(vectors, width, params=params)


def search_parameters(index: Any, bits: np.ndarray) -> Any:
    """Return FAISS's parameters that limit a search to the rows whose bit is set.

    An index type ignores parameters that are not of its own class, or refuses them, so the effort
    that the index was made with is repeated in them.
    """
    faiss = import_faiss()
    selector = faiss.IDSelectorBitmap(bits)
    inner = inner_of(index)
    if isinstance(inner, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=inner.hnsw.efSearch)
    if isinstance(inner, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=inner.nprobe)
    return faiss.SearchParameters(sel=selector)


def inner_of(index: Any) -> Any:
    """Return the index inside an IndexIDMap2, as its own class."""
    faiss = import_faiss()
    inner = getattr(index, "index", index) if isinstance(index, faiss.IndexIDMap2) else index
    return faiss.downcast_index(inner)
