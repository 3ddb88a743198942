"""The words that keyword search counts, of passages and of queries alike, and BM25's constants.

k1 = 1.5, b = 0.75, English stop words, Snowball's English stemmer. `words_of` is the one
tokenisation: a query that is not stemmed as the index was still finds something, only much less,
and nothing says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import bm25s
import Stemmer

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
