"""Exact dense search in torch: a matrix product and a top-k, block by block, on a CPU or a GPU.

For batches this is several times as fast as `flat`, which is FAISS's flat index without its matrix
products, as their rounding depends on the batch; it gives that index's results:

1 score a block of rows for a block of queries with one matrix product, rows that are not selected
  at -inf; keep the best `width` of all blocks so far;
2 a product rounds differently with the sizes of its blocks, so its scores only nominate: `width` is
  grown until every row within the rounding error of the last place is nominated;
3 score the nominated rows again, each alone, in float64; order by that score, rounded to float32,
  and then by row.

So a query finds the same rows with the same scores alone and in any batch, and equal vectors tie.

On a CPU the vectors stay where they are, as float32, which may be a file that is mapped into
memory. On a GPU they are float16 by default: the whole array is made empty there and filled block
by block, so the most that is ever held is the index and one block (21M x 768 in float16: 32.3 GB;
making it in float32 and converting would need three times that). Scores are then those of the
rounded vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from plumbrule.errors import ConfigError
from rag.index.protocol import NOTHING, Hits, Selection
from rag.index.ranking import best
from rag.index.vector_checks import require_queries
from rag.index.vector_files import open_vectors, save_vectors

QUERIES_AT_ONCE = 256
ROWS_AT_ONCE = {"cpu": 16_384, "cuda": 131_072}
"""Rows that are scored together. On a CPU few, so that scores stay in its cache for the top-k."""
GROUP = 64
"""Columns of scores whose maximum is taken first."""
SPARE = 8
"""Rows nominated beyond the depth, at first."""
GATHERED_BELOW = 0.25
"""A selection of a smaller share of rows is copied out and searched alone."""
DTYPES = {"float32": torch.float32, "float16": torch.float16}


class ExactIndex:
    """A frozen exact index over vectors 0..n-1 (`VectorSearch`).

    Args: shards: (n_i, d) float32 arrays that follow one another. device: where products are
        computed. dtype: in which vectors are held on a GPU; on a CPU they stay float32.
        rows_at_once: that are scored together; None: `ROWS_AT_ONCE`.
    """

    def __init__(
        self,
        shards: Sequence[np.ndarray],
        device: str = "cpu",
        dtype: str = "float16",
        rows_at_once: int | None = None,
    ):
        if not shards:
            raise ConfigError("an exact index must have vectors; give it at least one array.")
        self.dimensions = int(shards[0].shape[1])
        self._device, self._step = device, rows_at_once or ROWS_AT_ONCE[device.split(":")[0]]
        on_cpu = device == "cpu"
        self._dtype = torch.float32 if on_cpu else DTYPES[dtype]
        parts = [torch.from_numpy(shard) for shard in shards]
        self._parts = parts if on_cpu else [self._filled(parts)]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self._norm: float | None = None

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", dtype: str = "float16") -> ExactIndex:
        """Return the index of the vectors in `folder`, which are mapped, not read, on a CPU.

        Raises: ArtifactError: a file is damaged, or cut short.
        """
        return cls(open_vectors(folder), device, dtype)

    def save(self, folder: Path) -> None:
        """Write the vectors, as `open_vectors` reads them."""
        save_vectors([part.float().cpu().numpy() for part in self._parts], folder)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return int(self._starts[-1])

    def search(
        self, vectors: np.ndarray, depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return each query's `depth` nearest selected rows, at most; none for a zero vector.

        Args: vectors: (q, d) float32.
        Raises: ConfigError: a query of another length, or with NaN.
        """
        require_queries(vectors, self.dimensions)
        found: list[Hits] = []
        for start in range(0, len(vectors), QUERIES_AT_ONCE):
            found += self._search(vectors[start : start + QUERIES_AT_ONCE], depth, selection)
        return found

    def scores(self, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return each query's scores of its own rows, (q, m) float32; each row is scored alone.

        Args: vectors: (q, d) float32. rows: (q, m) int64, all 0 or above.
        """
        taken = self.take(rows.ravel()).reshape(*rows.shape, self.dimensions)
        queries = torch.from_numpy(np.ascontiguousarray(vectors)).to(self._device).double()
        return (taken.double() * queries[:, None]).sum(-1).float().cpu().numpy()

    def nearest_of(self, vectors: np.ndarray, rows: np.ndarray, depth: int) -> np.ndarray:
        """Return the best of each query's own rows, `depth` and some to spare, (q, m) int64.

        By products in the index's precision: what is near the last place may depend on rounding.

        Args: vectors: (q, d) float32. rows: (q, w) int64; -1 is no row, and may be among the best.
        """
        width = depth + SPARE
        if rows.shape[1] <= width:
            return rows
        taken = self.take(np.maximum(rows, 0).ravel()).reshape(*rows.shape, self.dimensions)
        queries = torch.from_numpy(np.ascontiguousarray(vectors)).to(self._device, self._dtype)
        scores = torch.bmm(taken, queries[:, :, None])[:, :, 0].float().cpu().numpy()
        scores[rows < 0] = -np.inf
        kept = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        return np.take_along_axis(rows, kept, axis=1)

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """Return the vectors of rows (m,) int64, (m, d), as they are held."""
        if len(self._parts) == 1:
            return self._parts[0][torch.from_numpy(rows).to(self._device)]
        taken = torch.empty((len(rows), self.dimensions), dtype=self._dtype)
        part_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part_of):
            inside = np.flatnonzero(part_of == number)
            local = torch.from_numpy(rows[inside] - self._starts[number])
            taken[torch.from_numpy(inside)] = self._parts[number][local]
        return taken

    def _search(self, vectors: np.ndarray, depth: int, selection: Selection | None) -> list[Hits]:
        asked = np.any(vectors != 0, axis=1)
        available = len(self) if selection is None else selection.count
        depth = min(depth, available)
        if depth == 0 or not asked.any():
            return [NOTHING] * len(vectors)
        width = min(depth + max(SPARE, depth // 2), available)
        error = self._rounding(vectors)
        while True:
            nominal, rows = self._nominate(vectors, width, selection)
            unsure = nominal[:, -1] >= nominal[:, depth - 1] - error
            if width == available or not unsure[asked].any():
                break
            width = min(2 * width, available)
        scores = self.scores(vectors, rows)
        found = []
        for is_asked, one_rows, one_scores in zip(asked, rows, scores, strict=True):
            top_rows, top = best(one_rows, one_scores, depth if is_asked else 0)
            found.append(Hits(top_rows, top, floor=float(top[-1]) if len(top) else 0.0))
        return found

    def _nominate(
        self, vectors: np.ndarray, width: int, selection: Selection | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores float32, rows int64), both (q, width), by matrix products."""
        dtype = self._dtype
        queries = torch.from_numpy(np.ascontiguousarray(vectors)).to(self._device, dtype)
        shape = (len(vectors), self._step)
        room = torch.empty(shape, dtype=dtype, device=self._device)  # of every block's scores
        top = torch.empty((len(vectors), 0), device=self._device)
        rows = torch.empty((len(vectors), 0), dtype=torch.int64, device=self._device)
        for block, numbers, refused in self._blocks(selection):
            scores = room.view(-1)[: len(vectors) * len(block)].view(len(vectors), len(block))
            torch.mm(queries, block.T, out=scores)
            if refused is not None:
                scores.masked_fill_(refused, -torch.inf)
            highest, places = highest_of(scores.float(), width)
            top = torch.cat((top, highest), 1)
            rows = torch.cat((rows, numbers[places]), 1)
            top, kept = top.topk(min(width, top.shape[1]))
            rows = rows.gather(1, kept)
        return top.cpu().numpy(), rows.cpu().numpy()

    def _blocks(
        self, selection: Selection | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Yield (vectors (m, d), their rows (m,) int64, True = not selected (m,) or None)."""
        if selection is not None and selection.count < GATHERED_BELOW * len(self):
            for first in range(0, selection.count, self._step):
                rows = selection.rows[first : first + self._step]
                block = self.take(rows)
                yield block, torch.from_numpy(rows).to(self._device), None
            return
        every = selection is None or selection.whole
        for part, start in zip(self._parts, self._starts, strict=False):
            for first in range(0, len(part), self._step):
                block = part[first : first + self._step]
                row = int(start) + first
                numbers = torch.arange(row, row + len(block), device=self._device)
                refused = None
                if selection is not None and not every:
                    refused = torch.from_numpy(~selection.mask[row : row + len(block)])
                    refused = refused.to(self._device)
                yield block, numbers, refused

    def _rounding(self, vectors: np.ndarray) -> np.ndarray:
        """Return by how much two scores of a product may be apart that are equal, (q,) float32.

        A sum of d products is off by at most d eps |x| |q| in its own precision (Higham 2002, eq.
        3.5). float16 is added up in float32; query and result are rounded besides.
        """
        eps = float(torch.finfo(torch.float32).eps) * self.dimensions
        if self._dtype != torch.float32:
            eps += float(torch.finfo(self._dtype).eps)
        return 2.0 * eps * self._longest() * np.linalg.norm(vectors, axis=1)

    def _longest(self) -> float:
        """Return the length of the longest vector."""
        if self._norm is None:
            norms = [float(block.float().norm(dim=1).max()) for block, _, _ in self._blocks(None)]
            self._norm = max(norms, default=0.0)
        return self._norm

    def _filled(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return all parts as one tensor on the device, filled block by block."""
        number = sum(len(part) for part in parts)
        whole = torch.empty((number, self.dimensions), dtype=self._dtype, device=self._device)
        row = 0
        for part in parts:
            for first in range(0, len(part), self._step):
                block = part[first : first + self._step]
                whole[row : row + len(block)].copy_(block)
                row += len(block)
        return whole


def highest_of(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `width` highest of each row of scores (q, n) and their columns, in any order.

    The highest `width` stand in the `width` groups of columns with the highest maxima: each group
    that holds one of them has a maximum that is as high. So most columns are compared once, for
    their group's maximum, which is several times as fast as sorting them into a top-k.
    """
    whole = scores.shape[1] // GROUP * GROUP
    if whole // GROUP <= 2 * width:
        return scores.topk(min(width, scores.shape[1]), sorted=False)
    groups = scores[:, :whole].unflatten(1, (-1, GROUP))
    chosen = groups.amax(2).topk(width, sorted=False).indices
    columns = (chosen[:, :, None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
    if whole < scores.shape[1]:
        rest = torch.arange(whole, scores.shape[1], device=scores.device)
        columns = torch.cat((columns, rest.expand(len(scores), -1)), 1)
    highest, places = scores.gather(1, columns).topk(width, sorted=False)
    return highest, columns.gather(1, places)
