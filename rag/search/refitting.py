"""An encoder that is fitted on passages, fitted anew on those that a principal may read.

`hashing` weighs words by how many passages have them. With the weights of all passages a vector
would tell a principal what stands in passages that it may not read: a word that none has weighs
nothing. So whoever may not read all passages is searched for with an encoder that was fitted on
what it may read, over vectors that this encoder made: as if there were no other passages. That
takes as long as indexing what it may read, once a set of readable passages and opened retriever,
which keeps the latest `KEPT_ENCODERS` encoders and `KEPT_INDEXES` indexes in memory. A neural
encoder knows no passages and is the same for everyone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from rag.index.encoders import Encoder
from rag.index.protocol import VectorSearch

KEPT_ENCODERS, KEPT_INDEXES = 16, 4
BLOCK = 4096
"""Texts that are encoded together; bounds memory."""

Made = TypeVar("Made")


class KeptByReaders(Generic[Made]):
    """What is made of the rows that may be read, kept by those rows.

    Threads may share it; while one makes something, others wait.

    Args: make: of (n,) bool, True = may be read. most: that are kept; the one that was asked for
        longest ago goes first, before another is made.
    """

    def __init__(self, make: Callable[[np.ndarray], Made], most: int):
        self._make, self._most = make, most
        self._kept: OrderedDict[bytes, Made] = OrderedDict()
        self._lock = Lock()

    def of(self, readable: np.ndarray) -> Made:
        """Return what was made of the rows that may be read."""
        key = np.packbits(readable).tobytes()
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= self._most:
                    self._kept.popitem(last=False)
                self._kept[key] = self._make(readable)
            self._kept.move_to_end(key)
            return self._kept[key]


class EncoderOfReaders:
    """The encoder of passages 0..n-1, for those who may read some of them.

    Args: encoder: of all passages. texts: gives them as they were encoded. fit: makes the encoder
        of some texts; None: it is not fitted on passages, so it is the same for everyone.
    """

    def __init__(
        self,
        encoder: Encoder,
        texts: Callable[[], Sequence[str]],
        fit: Callable[[Sequence[str]], Encoder] | None,
    ):
        self._encoder, self._texts, self._fit = encoder, texts, fit
        self._kept = KeptByReaders(self._fitted, KEPT_ENCODERS)

    @property
    def is_fitted(self) -> bool:
        """Return whether it depends on what may be read."""
        return self._fit is not None

    def of(self, readable: np.ndarray) -> Encoder:
        """Return the encoder for whoever may read these passages, (n,) bool, at least one."""
        if not self.is_fitted or readable.all():
            return self._encoder
        return self._kept.of(readable)

    def _fitted(self, readable: np.ndarray) -> Encoder:
        assert self._fit is not None
        texts = self._texts()
        return self._fit([texts[row] for row in np.flatnonzero(readable).tolist()])


class RefittedIndexes:
    """Dense indexes of what may be read, by an encoder that was fitted on that alone.

    Args: encoders: of the passages. texts: gives the texts that are indexed, in order of rows.
        index: makes the index of vectors (n, d) float32. passages: (rows,) bool, which rows may be
        read -> (n,) bool, which passages; None: the rows are the passages.
    """

    def __init__(
        self,
        encoders: EncoderOfReaders,
        texts: Callable[[], Sequence[str]],
        index: Callable[[np.ndarray], VectorSearch],
        passages: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self._encoders, self._texts, self._index = encoders, texts, index
        self._passages = passages
        self._kept = KeptByReaders(self._made, KEPT_INDEXES)

    def of(self, readable: np.ndarray) -> tuple[Encoder, VectorSearch]:
        """Return the encoder and the index of the rows that may be read, (rows,) bool, some."""
        return self._kept.of(readable)

    def _made(self, readable: np.ndarray) -> tuple[Encoder, VectorSearch]:
        passages = readable if self._passages is None else self._passages(readable)
        encoder = self._encoders.of(passages)
        every = self._texts()
        texts = [every[row] for row in np.flatnonzero(readable).tolist()]
        vectors = np.empty((len(texts), encoder.dimensions), dtype=np.float32)
        for start in range(0, len(texts), BLOCK):
            part = slice(start, start + BLOCK)
            vectors[part] = encoder.encode_passages(texts[part])
        return encoder, self._index(vectors)
