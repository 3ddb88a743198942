"""How a live store cuts, encodes and indexes: fixed when it is made. No torch, no faiss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from plumbrule.config import require, require_choice, require_range, require_source
from plumbrule.errors import ArtifactError
from rag.chunking.config import ChunkerConfig, require_words
from rag.options import DENSE_INDEXES, HASHING

NO_SEGMENTS = ("exact", "factory")
"""Types that are no function from vectors to a FAISS index, or need a setting more."""


@dataclass
class StoreSettings:
    """What every chunk of a store has in common."""

    chunk_words: int = 60
    """As `rag.chunk_words`."""
    overlap_words: int = 0
    """As `rag.overlap_words`."""
    chunker: ChunkerConfig = field(default_factory=ChunkerConfig)
    """As `rag.chunker`."""
    encoder: str = HASHING
    """hashing, or a sentence-transformers folder or hub name. hashing has no document frequencies
    here: those of a live store change, and vectors must not."""
    encoder_revision: str | None = None
    """As `rag.encoder_revision`."""
    dimensions: int = 1024
    """Of hashing's vectors."""
    dense_index: str = "flat"
    """As `rag.dense_index`: of segments that are large enough."""

    def check(self) -> None:
        """Raise ConfigError for settings that a new store can't have."""
        require_words("--chunk-words", self.chunk_words, "--overlap-words", self.overlap_words)
        require_range("--dimensions", self.dimensions, 16)
        choices = [name for name in DENSE_INDEXES if name not in NO_SEGMENTS]
        require_choice("--dense-index", self.dense_index, choices)
        if self.encoder == HASHING:
            require(
                self.encoder_revision is None,
                "--encoder-revision",
                self.encoder_revision,
                f"be left out for --encoder (={HASHING})",
                "only a hub name has revisions",
            )
        else:
            revision = self.encoder_revision
            require_source("--encoder", self.encoder, "--encoder-revision", revision)

    def as_json(self) -> dict[str, Any]:
        """Return what `settings_of` reads."""
        return asdict(self)


def settings_of(about: Mapping[str, Any]) -> StoreSettings:
    """Return the settings that a store keeps.

    They are not checked again: an encoder's or tokenizer's folder may have moved
    since it was copied.
    Raises: ArtifactError: they are none of this version's.
    """
    known = {f.name for f in fields(StoreSettings)}
    try:
        values = {name: value for name, value in dict(about["settings"]).items() if name in known}
        chunker, own = ChunkerConfig(), {f.name for f in fields(ChunkerConfig)}
        for name, value in values["chunker"].items():
            if name in own:
                setattr(chunker, name, value)
        return StoreSettings(**{**values, "chunker": chunker})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"a store's settings can't be read ({error!r}).") from None
