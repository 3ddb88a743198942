"""`sentences`: every so many sentences; one that is too long is cut by words."""

from __future__ import annotations

from plumbrule.data.records import Document
from rag.chunking.cutting import Chunker, Cutting, Span, sentence_spans, within


def sentences(cutting: Cutting) -> Chunker:
    """Return the chunker of `rag.chunker.sentences` sentences a chunk."""
    number = cutting.chunker.sentences

    def cut(document: Document) -> list[Span]:
        found: list[Span] = []
        every = sentence_spans(document.text)
        for first in range(0, len(every), number):
            group = every[first : first + number]
            found += within(document.text, group[0][0], group[-1][1], whole(cutting))
        return found

    return cut


def whole(cutting: Cutting) -> Cutting:
    """Return a cutting without overlap: it would repeat words inside a group of sentences alone."""
    return cutting._replace(overlap_words=0)
