"""`semantic`: cut where one sentence says least of what the next one does.

Each sentence of a document that has several is encoded by the index's encoder. Of the places
between two of its sentences, the share `rag.chunker.breaks` with the smallest cosine are cut, ties
at the earlier place; and wherever a chunk would have more than `chunk_words` words.
"""

from __future__ import annotations

import math

import numpy as np

from plumbrule.data.records import Document
from rag.chunking.cutting import Chunker, Cutting, Span, sentence_spans, within
from rag.chunking.sentences import whole
from rag.chunks import WORD


def semantic(cutting: Cutting) -> Chunker:
    """Return the chunker that cuts where the meaning changes."""
    encode = cutting.encode
    if encode is None:
        raise ValueError("rag.chunker.by=semantic needs an encoder")

    def cut(document: Document) -> list[Span]:
        text = document.text
        every = sentence_spans(text)
        if not every:
            return []
        breaks: set[int] = set()
        if len(every) > 1:
            vectors = encode([text[a:b] for a, b in every])
            breaks = changes(vectors, cutting.chunker.breaks)
        groups: list[list[Span]] = []
        words = 0
        for number, (start, end) in enumerate(every):
            own = len(WORD.findall(text[start:end]))
            if number == 0 or number in breaks or words + own > cutting.chunk_words:
                groups.append([])
                words = 0
            groups[-1].append((start, end))
            words += own
        parts = (within(text, g[0][0], g[-1][1], whole(cutting)) for g in groups)
        return [span for spans in parts for span in spans]

    return cut


def changes(vectors: np.ndarray, share: float) -> set[int]:
    """Return the n for which sentence n begins a chunk: those least like the one before.

    Args: vectors: (n, d) of unit length. share: of the n - 1 places, rounded up.
    """
    cosines = np.einsum("ij,ij->i", vectors[1:], vectors[:-1]).astype(np.float64)
    number = math.ceil(share * len(cosines))
    order = np.argsort(np.round(cosines, 6), kind="stable")[:number]
    return {int(place) + 1 for place in order}
