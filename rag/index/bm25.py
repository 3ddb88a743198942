"""Keyword search: BM25 in Lucene's variant, by bm25s.

k1 = 1.5, b = 0.75, English stop words, Snowball's English stemmer. `words_of` is the one
tokenisation, of passages and of queries alike: a query that is not stemmed as the index was still
finds something, only much less, and nothing says so.

bm25s numbers its vocabulary in the order of a Python set, which differs from process to process;
here it is sorted, so the same passages give the same files. Those are `.npy` arrays and JSON, read
with pickle refused. bm25s scores every passage when it indexes, so the index is frozen: adding a
passage means building it again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
import Stemmer

from plumbrule.errors import ArtifactError
from rag.index.protocol import Hits, Selection
from rag.index.ranking import best

K1, B = 1.5, 0.75
SETTINGS = {"method": "lucene", "k1": K1, "b": B, "stop_words": "english", "stemmer": "snowball"}

# bm25s sets its logger to DEBUG on import and would speak at every index.
logging.getLogger("bm25s").setLevel(logging.WARNING)


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """Return the index terms of each text: lower case, no stop words, stemmed, in order."""
    return bm25s.tokenize(
        list(texts),
        stopwords="english",
        stemmer=Stemmer.Stemmer("english"),
        return_ids=False,
        show_progress=False,
    )


class KeywordIndex:
    """A frozen BM25 index over passages 0..n-1."""

    def __init__(self, bm25: bm25s.BM25):
        self._bm25 = bm25

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
        return cls(bm25)

    def save(self, folder: Path) -> None:
        """Write the index into `folder` as `.npy` arrays and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self._bm25.save(folder, allow_pickle=False, show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> KeywordIndex:
        """Return the index that `save` wrote.

        Raises: ArtifactError: a file is missing or damaged, or holds a pickled array.
        """
        try:
            return cls(bm25s.BM25.load(folder, allow_pickle=False, show_progress=False))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"keyword index {folder} can't be read ({error}); build the index again."
            ) from None

    def __len__(self) -> int:
        """Return the number of passages."""
        return self._bm25.scores["num_docs"]

    def search(
        self, queries: Sequence[str], depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return each query's best `depth` selected passages; those that share no term are not
        found.

        A term that stands twice in a query counts twice, as in Lucene. How rare a term is (its IDF)
        is counted among the passages that the principal may read, whatever the filter: otherwise
        scores would tell whether a word stands in what it may not read. The mean length of passages
        is that of all.
        """
        readable = None if selection is None else selection.readable
        if readable is not None and readable.all():
            readable = None
        found = []
        for words in words_of(queries):
            scores = self._scores(words, readable)
            if selection is None or selection.whole:
                matching = np.flatnonzero(scores > 0)
            else:
                matching = selection.rows[scores[selection.rows] > 0]
            rows, top = best(matching, scores[matching], depth)
            available = len(self) if selection is None else selection.count
            full = len(rows) == min(depth, available) > 0
            found.append(Hits(rows, top, floor=float(top[-1]) if full else 0.0))
        return found

    def _scores(self, words: list[str], readable: np.ndarray | None) -> np.ndarray:
        """Return the BM25 score of every passage, (n,) float32.

        Args: readable: (n,) bool, True = the passage counts towards IDF; None: every one does.
        """
        numbers = self._bm25.get_tokens_ids(words)
        if readable is None:
            return self._bm25.get_scores_from_ids(numbers)
        scores = np.zeros(len(self), dtype=np.float32)
        data, rows, starts = (self._bm25.scores[name] for name in ("data", "indices", "indptr"))
        for number in numbers:
            span = slice(starts[number], starts[number + 1])
            there = int(np.count_nonzero(readable[rows[span]]))
            every = span.stop - span.start
            ratio = idf(there, int(readable.sum())) / idf(every, len(self)) if there else 0.0
            scores[rows[span]] += data[span] * np.float32(ratio)
        return scores


def idf(having: int, passages: int) -> float:
    """Return Lucene's inverse document frequency of a term that `having` of `passages` have."""
    return math.log(1.0 + (passages - having + 0.5) / (having + 0.5))
