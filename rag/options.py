"""What an index chooses by name: its chunker, encoder and type of dense index. No faiss, no torch.

Each table is what the setting's check and its error message read, and where plug-ins enter their
own (`plumbrule/registry.py`).

    table          setting          what it maps to
    DENSE_INDEXES  rag.dense_index  passages' vectors (n, d) -> an empty, trained FAISS index; but
                                    for `exact`, which has none, and `factory`, which takes a string
    ENCODERS       rag.encoder      a class like `encoders.FittedEncoder`; any other name is that of
                                    a sentence-transformers model
    CHUNKERS       rag.chunker.by   a `rag.chunking.cutting.Cutting` -> a function from a document
                                    to the (start, end) character offsets of its chunks
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plumbrule.registry import Registry

if TYPE_CHECKING:
    import numpy as np

EXACT, FACTORY = "exact", "factory"
PRESET_NAMES = ("sq8", "sqfp16", "hnsw", "ivf", "ivf_pq")
"""Approximate types whose settings stand in `rag/index/presets.py`."""
DENSE_INDEXES: Registry[Callable[[np.ndarray], Any]] = Registry(
    "rag.dense_index",
    {
        "flat": ("rag.index.dense:flat",),
        **{name: (f"rag.index.presets:{name}",) for name in PRESET_NAMES},
        EXACT: ("rag.index.exact:ExactIndex",),
        FACTORY: ("rag.index.presets:from_factory",),
    },
)
ENCODERS: Registry[Any] = Registry(
    "rag.encoder", {"hashing": ("rag.index.hash_encoder:HashingEncoder",)}
)
CHUNKERS: Registry[Any] = Registry(
    "rag.chunker.by",
    {
        "words": ("rag.chunking.words:words",),
        "tokens": ("rag.chunking.tokens:tokens",),
        "sentences": ("rag.chunking.sentences:sentences",),
        "structure": ("rag.chunking.structure:structure",),
        "semantic": ("rag.chunking.semantic:semantic",),
    },
)
REGISTRIES = (DENSE_INDEXES, ENCODERS, CHUNKERS)
