"""An encoder that needs no model: TF-IDF by feature hashing.

Half of the dimensions count words and pairs of neighbouring words (English stop words dropped),
half count runs of four letters within words, so that `founding` still meets `founded`. Each half is
made in three steps:

1 hash each feature to one of 2^18 buckets and a sign (Weinberger et al. 2009, arXiv:0902.2206);
2 weight a bucket that a text has c times by (1 + ln c) * (ln((1 + n) / (1 + df)) + 1), where df of
  the n passages have it, and by 0 where none has: what no passage says can only add noise;
3 fold the buckets onto the half's dimensions; the signs make collisions cancel on average.

Weights belong to buckets and not to dimensions, because some dozen features share a dimension and
would give a rare name the weight of the common word beside it. Then each half is scaled to unit
length, and the whole. No vocabulary is kept, only df.

It sees spelling, not meaning. It is here so that the default experiment needs no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

BUCKETS = 2**18
HALVES = ("words", "letters")
STATE = "frequencies.safetensors"


class HashingEncoder:
    """Texts to vectors of unit length.

    Args: frequencies: for each half, in how many passages each bucket occurs, (BUCKETS,) int32.
        num_passages: of how many. dimensions: of a vector, both halves together.
    """

    def __init__(self, frequencies: dict[str, np.ndarray], num_passages: int, dimensions: int):
        self.dimensions = dimensions
        self._frequencies, self._num_passages = frequencies, num_passages
        self._weights = {half: weights_of(f, num_passages) for half, f in frequencies.items()}

    @classmethod
    def fit(cls, texts: Sequence[str], dimensions: int) -> HashingEncoder:
        """Return the encoder whose weights come from `texts`."""
        frequencies = {
            half: np.bincount(counts_of(half, texts).indices, minlength=BUCKETS).astype(np.int32)
            for half in HALVES
        }
        return cls(frequencies, len(texts), dimensions)

    @classmethod
    def load(cls, folder: Path) -> HashingEncoder:
        """Return the encoder that `save` wrote."""
        state = load_file(folder / STATE)
        num_passages, dimensions = (int(value) for value in state["shape"])
        return cls({half: state[half] for half in HALVES}, num_passages, dimensions)

    def save(self, folder: Path) -> None:
        """Write the frequencies as safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        shape = np.array([self._num_passages, self.dimensions], dtype=np.int64)
        save_file({**self._frequencies, "shape": shape}, folder / STATE)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, dimensions) float32 vectors of unit length; zero where nothing is known."""
        first = self.dimensions // 2
        halves = [
            fold(counts_of(half, texts), self._weights[half], number)
            for half, number in zip(HALVES, (first, self.dimensions - first), strict=True)
        ]
        return normalize(np.hstack(halves)).astype(np.float32)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return the same as `encode_passages`: queries and passages are hashed alike."""
        return self.encode_passages(texts)

    def num_cut(self, texts: Sequence[str]) -> int:
        """Return 0: every text is read to its end."""
        return 0


def counts_of(half: str, texts: Sequence[str]) -> csr_matrix:
    """Return how often each text has each bucket of a half, with its sign, (n, BUCKETS)."""
    if half == "words":
        vectorizer = HashingVectorizer(
            n_features=BUCKETS, norm=None, stop_words="english", ngram_range=(1, 2)
        )
    else:
        vectorizer = HashingVectorizer(
            n_features=BUCKETS, norm=None, analyzer="char_wb", ngram_range=(4, 4)
        )
    return vectorizer.transform(texts)


def weights_of(frequency: np.ndarray, num_passages: int) -> np.ndarray:
    """Return ln((1 + n) / (1 + df)) + 1 per bucket, 0 where df is 0; (BUCKETS,) float64."""
    weights = np.zeros(len(frequency))
    known = np.flatnonzero(frequency)
    weights[known] = np.log((1 + num_passages) / (1 + frequency[known])) + 1
    return weights


def fold(counts: csr_matrix, weights: np.ndarray, dimensions: int) -> np.ndarray:
    """Return weighted counts summed onto `dimensions`, rows of unit length, (n, d) float64.

    Args: counts: (n, BUCKETS) with signs. weights: (BUCKETS,).
    """
    # Two features of one text may meet in a bucket with opposite signs and leave a stored 0.
    number = np.maximum(np.abs(counts.data), 1.0)
    values = np.sign(counts.data) * (1 + np.log(number)) * weights[counts.indices]
    shape = (counts.shape[0], dimensions)
    folded = csr_matrix((values, counts.indices % dimensions, counts.indptr), shape=shape)
    return normalize(folded.toarray())
