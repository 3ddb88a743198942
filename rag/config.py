"""Settings of the stage index. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import (
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    require,
    require_choice,
    require_range,
    require_source,
)
from plumbrule.stage_kind import Slot, StageKind
from rag.options import DENSE_INDEXES, ENCODERS


@dataclass
class IndexConfig:
    """Stage `index`: documents cut to chunks, encoded, and searched exactly or by keyword."""

    chunk_words: int = 60
    """Words per chunk, cut at sentence ends where there are any."""
    overlap_words: int = 0
    """Words that a chunk repeats from the one before it."""
    readers: list[str] = field(default_factory=lambda: ["*"])
    """Principals that may read documents without a rule of their own (`meta.readers`); "*": \
everyone may; []: nobody may."""
    encoder: str = field(default="hashing", metadata=CONTENT_IF_LOCAL)
    """hashing (TF-IDF by hash, works offline), one of a plug-in, or a sentence-transformers \
folder or hub name."""
    encoder_revision: str | None = None
    """40-hex commit of a hub encoder; None for a folder and for those that are no model."""
    dimensions: int = 1024
    """Of the vectors of an encoder that is no model, such as hashing."""
    dense_index: str = "flat"
    """flat: exact search; or a type of FAISS index of a plug-in, which may be approximate."""
    batch_size: int = field(default=64, metadata=NOT_HASHED)
    """Chunks encoded together."""
    num_queries: int = 200
    """Questions that measure recall@k and MRR, spread evenly; where the documents carry any."""
    source: str = ""
    """Digests of the plug-ins that hold what is chosen by name; filled in, whatever is given."""

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
        require(
            all(name.strip() for name in self.readers),
            "rag.readers",
            self.readers,
            "be names of principals",
            'name them, or give "*" for everyone',
        )
        require_range("rag.dimensions", self.dimensions, 16)
        require_range("rag.batch_size", self.batch_size, 1, unit="chunks")
        require_range("rag.num_queries", self.num_queries, 1, unit="questions")
        require_choice("rag.dense_index", self.dense_index, DENSE_INDEXES)
        sources = {"dense_index": DENSE_INDEXES.source(self.dense_index)}
        revision = self.encoder_revision
        if self.encoder in ENCODERS:
            sources["encoder"] = ENCODERS.source(self.encoder)
            require(
                revision is None,
                "rag.encoder_revision",
                revision,
                f"be null for rag.encoder (={self.encoder})",
                "only a hub name has revisions",
            )
        else:
            require_source("rag.encoder", self.encoder, "rag.encoder_revision", revision)
        self.source = " ".join(f"{name}:{digest}" for name, digest in sources.items() if digest)


STAGE = StageKind(
    "index",
    IndexConfig,
    "rag.stage:run",
    {"documents": Slot(("data",))},
    section="rag",
    opener="rag.retriever:open_index",
)
