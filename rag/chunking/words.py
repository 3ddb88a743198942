"""`words`: at most so many words, at the last sentence end that fits (`rag/chunks.py`)."""

from __future__ import annotations

from rag.chunking.cutting import Chunker, Cutting
from rag.chunks import spans


def words(cutting: Cutting) -> Chunker:
    """Return the chunker that needs nothing but the text."""
    return lambda document: spans(document.text, cutting.chunk_words, cutting.overlap_words)
