"""`structure`: by words, and never across a heading.

Where sections begin, the parser of the document's format tells (`meta["places"]`); a document
without that is one section. Pages are no structure: a paragraph goes on over the end of a page.
"""

from __future__ import annotations

from itertools import pairwise

from plumbrule.data.records import Document
from rag.chunking.cutting import Chunker, Cutting, Span, within
from rag.chunks import places_of


def structure(cutting: Cutting) -> Chunker:
    """Return the chunker that cuts at headings."""

    def cut(document: Document) -> list[Span]:
        places = places_of(document)
        changes = [b.start for a, b in pairwise(places) if a.section != b.section]
        first = [places[0].start] if places and places[0].section else []
        edges = sorted({0, *first, *changes, len(document.text)})
        found = (within(document.text, a, b, cutting) for a, b in pairwise(edges))
        return [span for spans in found for span in spans]

    return cut
