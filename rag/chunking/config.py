"""Settings of how documents are cut. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from plumbrule.config import CONTENT_IF_LOCAL, require, require_choice, require_range
from rag.options import CHUNKERS

TOKENIZER = "tokenizer.json"


@dataclass
class ChunkerConfig:
    """Where documents are cut; no chunk but those of `tokens` has more than `chunk_words` words."""

    by: str = "words"
    """words: at the last sentence end that fits; tokens: every so many tokens; sentences: every so
    many sentences; structure: as words, and at every heading; semantic: where the meaning changes
    most."""
    tokens: int = 128
    """Of a chunk, with `tokens`."""
    overlap_tokens: int = 0
    """Tokens that a chunk repeats from the one before it, with `tokens`."""
    tokenizer: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder that holds a tokenizer.json, with `tokens`, which can't do without; None: none."""
    sentences: int = 1
    """Of a chunk, with `sentences`."""
    breaks: float = 0.2
    """Share of the places between two sentences at which `semantic` cuts, those with the smallest
    cosine of the encoder's vectors."""
    source: str = ""
    """Digest of the plug-in that holds the chunker; filled in, whatever is given."""

    def __post_init__(self) -> None:
        require_choice("rag.chunker.by", self.by, CHUNKERS)
        require_range("rag.chunker.tokens", self.tokens, 4, unit="tokens")
        require_range("rag.chunker.overlap_tokens", self.overlap_tokens, 0, unit="tokens")
        require(
            self.overlap_tokens < self.tokens,
            "rag.chunker.overlap_tokens",
            f"{self.overlap_tokens} tokens",
            f"be below rag.chunker.tokens (={self.tokens})",
            "a chunk must move on",
        )
        require_range("rag.chunker.sentences", self.sentences, 1, unit="sentences")
        require(
            0 < self.breaks < 1,
            "rag.chunker.breaks",
            self.breaks,
            "lie between 0 and 1",
            "take 0.2, a fifth of the places between sentences",
        )
        if self.by == "tokens":
            has = self.tokenizer is not None and (Path(self.tokenizer) / TOKENIZER).is_file()
            require(
                has,
                "rag.chunker.tokenizer",
                self.tokenizer,
                f"be a folder with {TOKENIZER} for rag.chunker.by=tokens",
                "give a model's folder",
            )
        self.source = CHUNKERS.source(self.by)


def require_words(words_name: str, chunk_words: int, overlap_name: str, overlap_words: int) -> None:
    """Raise ConfigError unless chunks may have so many words, and share so many.

    Args: words_name, overlap_name: of the settings.
    """
    require_range(words_name, chunk_words, 4, unit="words")
    require_range(overlap_name, overlap_words, 0, unit="words")
    require(
        overlap_words < chunk_words,
        overlap_name,
        f"{overlap_words} words",
        f"be below {words_name} (={chunk_words})",
        "a chunk must move on",
    )
