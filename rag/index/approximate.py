"""An approximate index whose answers are scored, ordered and filtered exactly.

An approximate index nominates rows; the stored vectors score them again, so scores and order are
those of exact search, and only rows that were not nominated are missed.

A search with a metadata filter compares the query with every row that passes and has no
approximation: an index that walks a graph, or visits lists, may end before it has met enough rows
that pass, and nothing would say so. A search that is limited by access alone is approximate while
the principal may read most rows, and exact below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from plumbrule.errors import ArtifactError
from rag.index.dense import VectorIndex
from rag.index.exact import ExactIndex
from rag.index.gpu_copy import MOST_NEAREST, GPUCopy
from rag.index.protocol import NOTHING, Hits, Selection
from rag.index.ranking import best
from rag.index.vector_checks import require_queries

EXACT_BELOW = 0.5
"""Share of rows that a principal must be able to read for the search to be approximate."""


class Nominator(Protocol):
    """What nominates rows of the whole index, such as a copy on a GPU."""

    def nearest(self, vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores (q, width) and rows, -1 where there is none."""


class ApproximateIndex:
    """A frozen index over vectors 0..n-1 (`VectorSearch`).

    Args: coarse: nominates rows. stored: the same vectors. nominated: rows that are scored again
        per passage that is asked for. copy: of `coarse`, searched in its place where it can be.
    Raises: ArtifactError: they hold different numbers of vectors.
    """

    def __init__(
        self,
        coarse: VectorIndex,
        stored: ExactIndex,
        nominated: int,
        copy: Nominator | None = None,
    ):
        if (len(coarse), coarse.dimensions) != (len(stored), stored.dimensions):
            raise ArtifactError(
                f"the approximate index (={len(coarse)} x {coarse.dimensions}) must hold the "
                f"stored vectors (={len(stored)} x {stored.dimensions}); build the index again."
            )
        self._coarse, self._stored, self._nominated = coarse, stored, nominated
        self._copy = copy
        self.dimensions = stored.dimensions

    @classmethod
    def load(
        cls, index: Path, size: int, vectors: Path, nominated: int, on_gpu: bool = False
    ) -> ApproximateIndex:
        """Return the index in the files `index` and `vectors`; both are mapped into memory.

        Args: size: of the file `index` when it was written, in bytes. on_gpu: search a copy there.
        Raises: ArtifactError: one of them is damaged, cut short or of another index. ConfigError:
            there is no GPU, or it takes no copy.
        """
        coarse = VectorIndex.load(index, size)
        copy = GPUCopy(coarse) if on_gpu else None
        return cls(coarse, ExactIndex.load(vectors), nominated, copy)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._stored)

    def search(
        self, vectors: np.ndarray, depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return each query's `depth` nearest selected rows, as far as they are nominated.

        Args: vectors: (q, d) float32.
        Raises: ConfigError: a query of another length, or with NaN.
        """
        if selection is not None:
            few = selection.count < EXACT_BELOW * len(self)
            if few or selection.filtered:
                return self._stored.search(vectors, depth, selection)
        available = len(self) if selection is None else selection.count
        width = min(depth * self._nominated, available)
        if width == 0 or not len(vectors):
            return [NOTHING] * len(vectors)
        require_queries(vectors, self.dimensions)
        whole = selection is None or selection.whole
        if self._copy is not None and whole and width <= MOST_NEAREST:
            _, rows = self._copy.nearest(vectors, width)
        else:
            _, rows = self._coarse.nearest(vectors, width, selection)
        rows = self._stored.nearest_of(vectors, rows, depth)
        scores = self._stored.scores(vectors, np.maximum(rows, 0))
        asked = np.any(vectors != 0, axis=1)
        found = []
        for is_asked, one_rows, one_scores in zip(asked, rows, scores, strict=True):
            top_rows, top = best(one_rows, one_scores, depth if is_asked else 0)
            found.append(Hits(top_rows, top, floor=float(top[-1]) if len(top) else 0.0))
        return found
