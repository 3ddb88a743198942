"""Settings of the stage encoder. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import CONTENT_IF_LOCAL, require, require_range, require_source
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode, Slot, StageKind
from rag.chunking.config import require_words


@dataclass
class EncoderConfig:
    """Stage `encoder`: a sentence encoder learns from the questions that documents carry."""

    seed: int = 0
    name_or_path: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """sentence-transformers folder or hub name to start from; None: none is named, and the stage
    can't be built."""
    revision: str | None = None
    """40-hex commit of a hub name; None for a folder."""
    chunk_words: int = 60
    """Words per chunk, as `rag.chunk_words`, which it follows."""
    overlap_words: int = 0
    """Words that a chunk repeats, as `rag.overlap_words`, which it follows."""
    held_out: float = 0.2
    """Share of the documents with questions, by the hash of their ids, whose questions measure
    recall and are not learned from."""
    num_queries: int = 500
    """Held-out questions that measure recall, at most, spread evenly."""
    num_negatives: int = 2
    """Hard negatives of each question: other documents' chunks that the encoder ranks highest."""
    negative_depth: int = 50
    """Ranks among which hard negatives are looked for; where too few fit, others are drawn."""
    margin: float = 0.05
    """A chunk whose cosine is not lower than the answer's by so much may hold an answer, too: it is
    a negative only where no others are left."""
    num_train_epochs: float = 1.0
    """Passes over the questions that are learned from; 0: the encoder stays as it was."""
    batch_size: int = 32
    """Questions of a step; the answers and negatives of the others are negatives of each."""
    learning_rate: float = 2e-5
    """Of AdamW, at its peak, from which it falls linearly to 0."""
    warmup_share: float = 0.1
    """Share of the steps over which the learning rate rises from 0 to its peak."""
    temperature: float = 0.05
    """Cosines are divided by it in the loss."""

    def __post_init__(self) -> None:
        words = ("encoder.chunk_words", self.chunk_words, "encoder.overlap_words")
        require_words(*words, self.overlap_words)
        if self.name_or_path is not None:
            name = "encoder.name_or_path"
            require_source(name, self.name_or_path, "encoder.revision", self.revision)
        else:
            rule, fix = "be null without encoder.name_or_path", "name the encoder, too"
            require(self.revision is None, "encoder.revision", self.revision, rule, fix)
        require_range("encoder.held_out", self.held_out, 0.0, 0.9)
        require_range("encoder.num_queries", self.num_queries, 1, unit="questions")
        require_range("encoder.num_negatives", self.num_negatives, 0, 100, unit="chunks")
        require_range("encoder.negative_depth", self.negative_depth, 1, unit="ranks")
        require_range("encoder.margin", self.margin, -2.0, 2.0)
        require_range("encoder.num_train_epochs", self.num_train_epochs, 0.0, 1000.0, "epochs")
        require_range("encoder.batch_size", self.batch_size, 2, unit="questions")
        require_range("encoder.learning_rate", self.learning_rate, 0.0, 1.0)
        require_range("encoder.warmup_share", self.warmup_share, 0.0, 1.0)
        require_range("encoder.temperature", self.temperature, 1e-3, 10.0)


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless an encoder to start from is named."""
    named = node.config.name_or_path
    rule, fix = "name an encoder to start from", "give a sentence-transformers folder or hub name"
    require(named is not None, "encoder.name_or_path", named, rule, fix)


STAGE = StageKind(
    "encoder",
    EncoderConfig,
    "rag.encoder.stage:run",
    {"documents": Slot(("data",))},
    links={
        "seed": "${seed}",
        "chunk_words": "${rag.chunk_words}",
        "overlap_words": "${rag.overlap_words}",
    },
    measured=True,
    headline=(
        "encoder/recall_at_1",
        "encoder/recall_at_1_gain",
        "encoder/recall_at_5",
        "encoder/recall_at_5_gain",
        "encoder/mrr",
        "encoder/mrr_gain",
    ),
    check="rag.encoder.config:check_inputs",
)
