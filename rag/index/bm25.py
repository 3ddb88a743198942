"""Keyword search: BM25 in Lucene's variant, by bm25s.

bm25s numbers its vocabulary in the order of a Python set, which differs from process to process;
here it is sorted, so the same passages give the same files. Those are `.npy` arrays and JSON, read
with pickle refused. bm25s scores every passage when it indexes, so the index is frozen: adding a
passage means building it again.

A principal that may not read all passages is answered by term counts (`rag/keyword/`), of which
those that it may read alone decide how rare a term is and how long a passage is on average. So its
scores are those of a bm25s index of what it may read, bit for bit. The counts are made of the
passages' texts when such a principal first searches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import numpy as np

from plumbrule.errors import ArtifactError
from rag.index.protocol import Hits, Selection
from rag.index.ranking import best
from rag.keyword.postings import FrozenTermCounts
from rag.keyword.scoring import Counted, search_keywords
from rag.keyword.words import K1, B, words_of


class KeywordIndex:
    """A frozen BM25 index over passages 0..n-1.

    Args: bm25: of all passages. texts: gives the passages as they were indexed.
    """

    def __init__(self, bm25: bm25s.BM25, texts: Callable[[], Sequence[str]]):
        self._bm25, self._texts = bm25, texts
        self._counts: tuple[FrozenTermCounts, np.ndarray] | None = None

    @classmethod
    def build(cls, texts: Sequence[str]) -> KeywordIndex:
        """Return the index of `texts`, whose places in the sequence are their rows."""
        terms = words_of(texts)
        # "" stands for no word at all: a corpus of stop words would otherwise have no vocabulary.
        names = sorted({"", *(word for words in terms for word in words)})
        number = {name: i for i, name in enumerate(names)}
        bm25 = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
        numbers = [[number[word] for word in words] for words in terms]
        with np.errstate(invalid="ignore"):  # a mean length of 0, where there are no words at all
            bm25.index((numbers, number), show_progress=False)
        return cls(bm25, lambda: texts)

    def save(self, folder: Path) -> None:
        """Write the index into `folder` as `.npy` arrays and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self._bm25.save(folder, allow_pickle=False, show_progress=False)

    @classmethod
    def load(cls, folder: Path, texts: Callable[[], Sequence[str]]) -> KeywordIndex:
        """Return the index that `save` wrote.

        Args: texts: gives the passages as they were indexed; asked when a principal searches that
            may not read all of them.
        Raises: ArtifactError: a file is missing or damaged, or holds a pickled array.
        """
        try:
            bm25 = bm25s.BM25.load(folder, allow_pickle=False, show_progress=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"keyword index {folder} can't be read ({error}); build the index again."
            ) from None
        return cls(bm25, texts)

    def __len__(self) -> int:
        """Return the number of passages."""
        return self._bm25.scores["num_docs"]

    def search(
        self, queries: Sequence[str], depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return each query's best `depth` selected passages; those that share no term are not
        found.

        A term that stands twice in a query counts twice, as in Lucene. How rare a term is (its IDF)
        and the mean length of passages are those of the passages that the principal may read,
        whatever the filter: otherwise scores would tell what stands in those that it may not read.
        """
        if selection is not None and not selection.readable.all():
            return search_keywords([self._counted(selection)], queries, depth)
        found = []
        for words in words_of(queries):
            scores = self._bm25.get_scores_from_ids(self._bm25.get_tokens_ids(words))
            if selection is None or selection.whole:
                matching = np.flatnonzero(scores > 0)
            else:
                matching = selection.rows[scores[selection.rows] > 0]
            rows, top = best(matching, scores[matching], depth)
            available = len(self) if selection is None else selection.count
            full = len(rows) == min(depth, available) > 0
            found.append(Hits(rows, top, floor=float(top[-1]) if full else 0.0))
        return found

    def _counted(self, selection: Selection) -> Counted:
        """Return the term counts of all passages, and which of them count."""
        if self._counts is None:
            texts = self._texts()
            if len(texts) != len(self):
                raise ArtifactError(
                    f"a keyword index (={len(self)} passages) must be searched with its texts "
                    f"(={len(texts)}); build the index again."
                )
            self._counts = FrozenTermCounts.build(texts)
        terms, lengths = self._counts
        rows = np.arange(len(self), dtype=np.int64)
        return Counted(rows, lengths, terms, selection.readable, selection.mask)
