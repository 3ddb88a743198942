"""Settings of the stage index. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import (
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    require,
    require_range,
    require_source,
)
from plumbrule.stage_kind import Slot, StageKind

HASHING = "hashing"


@dataclass
class IndexConfig:
    """Stage `index`: documents cut to chunks, encoded, and searched exactly or by keyword."""

    chunk_words: int = 60
    """Words per chunk, cut at sentence ends where there are any."""
    overlap_words: int = 0
    """Words that a chunk repeats from the one before it."""
    encoder: str = field(default=HASHING, metadata=CONTENT_IF_LOCAL)
    """hashing (TF-IDF by hash, works offline) or a sentence-transformers folder or hub name."""
    encoder_revision: str | None = None
    """40-hex commit of a hub encoder; None for a folder or `hashing`."""
    dimensions: int = 1024
    """Of the hashing encoder's vectors."""
    batch_size: int = field(default=64, metadata=NOT_HASHED)
    """Chunks encoded together."""
    num_queries: int = 200
    """Questions that measure recall@k and MRR, spread evenly; where the documents carry any."""

    def __post_init__(self) -> None:
        require_range("rag.chunk_words", self.chunk_words, 4, unit="words")
        require_range("rag.overlap_words", self.overlap_words, 0, unit="words")
        require(
            self.overlap_words < self.chunk_words,
            "rag.overlap_words",
            f"{self.overlap_words} words",
            f"be below rag.chunk_words (={self.chunk_words})",
            "a chunk must move on",
        )
        require_range("rag.dimensions", self.dimensions, 16)
        require_range("rag.batch_size", self.batch_size, 1, unit="chunks")
        require_range("rag.num_queries", self.num_queries, 1, unit="questions")
        revision = self.encoder_revision
        if self.encoder != HASHING:
            require_source("rag.encoder", self.encoder, "rag.encoder_revision", revision)
            return
        require(
            revision is None,
            "rag.encoder_revision",
            revision,
            "be null for rag.encoder (=hashing)",
            "only a hub name has revisions",
        )


STAGE = StageKind(
    "index",
    IndexConfig,
    "rag.stage:run",
    {"documents": Slot(("data",))},
    section="rag",
    opener="rag.retriever:open_index",
)
