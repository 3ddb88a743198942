"""The chunker that a config names. What is imported here is part of the stage's code."""

from __future__ import annotations

from rag.chunking.cutting import Chunker, Cutting
from rag.chunking.semantic import semantic
from rag.chunking.sentences import sentences
from rag.chunking.structure import structure
from rag.chunking.tokens import tokens
from rag.chunking.words import words
from rag.options import CHUNKERS

OURS = (words, tokens, sentences, structure, semantic)


def chunker_of(cutting: Cutting) -> Chunker:
    """Return the chunker that `rag.chunker.by` names, made for its settings."""
    return CHUNKERS[cutting.chunker.by](cutting)
