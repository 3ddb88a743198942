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
    RERANKERS      rag.refine.rerank
                                    `rag.search.models.RefiningModels` -> a Reranker. Traits:
                                    `reads` the model that rag.refine.rerank_model names, `asks` a
                                    language model
    REWRITERS      rag.refine.rewrite
                                    (an `Answer` of a language model, how many) -> a Rewriter
    SUMMARIES      rag.refine.summaries
                                    (documents, an `Answer` or None) -> a summary of each. Trait:
                                    `asks` a language model
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plumbrule.registry import Registry

if TYPE_CHECKING:
    import numpy as np

EXACT, FACTORY = "exact", "factory"
HASHING = "hashing"
"""The encoder that needs no model."""
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
    "rag.encoder", {HASHING: ("rag.index.hash_encoder:HashingEncoder",)}
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
READS, ASKS = "reads", "asks"
RERANKERS: Registry[Any] = Registry(
    "rag.refine.rerank",
    {
        "cross_encoder": ("rag.search.reranking:cross_encoder", READS),
        "language_model": ("rag.search.reranking:graded", ASKS),
    },
    (READS, ASKS),
)
REWRITERS: Registry[Any] = Registry(
    "rag.refine.rewrite",
    {
        "rephrase": ("rag.search.rewriting:Rephrased",),
        "hyde": ("rag.search.rewriting:HypotheticalAnswers",),
        "multi_query": ("rag.search.rewriting:Wordings",),
        "decompose": ("rag.search.rewriting:SubQuestions",),
    },
)
SUMMARIES: Registry[Any] = Registry(
    "rag.refine.summaries",
    {
        "lead": ("rag.search.summarising:lead",),
        "field": ("rag.search.summarising:field",),
        "written": ("rag.search.summarising:written", ASKS),
    },
    (ASKS,),
)
REGISTRIES = (DENSE_INDEXES, ENCODERS, CHUNKERS, RERANKERS, REWRITERS, SUMMARIES)
