"""What a chunker is given, and what all of them share.

A chunker is a function from a `Cutting` to one from a document to the (start, end) character
offsets of its chunks, in order: `document.text[start:end]` begins and ends with no blank, and no
chunk is blank. Every word of the document is in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from plumbrule.data.records import Document
from rag.chunking.config import ChunkerConfig
from rag.chunks import WORD, sentence_ends, spans

if TYPE_CHECKING:
    import numpy as np

Span: TypeAlias = tuple[int, int]
Chunker: TypeAlias = Callable[[Document], list[Span]]


class Cutting(NamedTuple):
    """How documents are to be cut."""

    chunk_words: int
    """The most words of a chunk."""
    overlap_words: int
    chunker: ChunkerConfig
    encode: Callable[[Sequence[str]], np.ndarray] | None = None
    """Texts to vectors of unit length, (n, d); None: not at hand. `semantic` alone needs it."""


def sentence_spans(text: str) -> list[Span]:
    """Return the offsets of a text's sentences, as `rag/chunks.py` tells them apart."""
    words = [match.span() for match in WORD.finditer(text)]
    found, first = [], 0
    for end in sorted(sentence_ends(text, words)) if words else []:
        found.append((words[first][0], words[end - 1][1]))
        first = end
    return found


def within(text: str, start: int, end: int, cutting: Cutting) -> list[Span]:
    """Return the spans of `text[start:end]` cut by words, offsets being those of `text`."""
    inner = spans(text[start:end], cutting.chunk_words, cutting.overlap_words)
    return [(start + a, start + b) for a, b in inner]
