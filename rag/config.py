"""Settings of the stage index. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbrule.config import (
    CONTENT,
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    PRECISIONS,
    require,
    require_choice,
    require_range,
    require_source,
)
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import POLICIES, PlacedNode, Slot, StageKind, own_precision
from plumbrule.store.layout import store_root
from rag.access import principal_of
from rag.chunking.config import ChunkerConfig, require_words
from rag.filters import parse_filter
from rag.options import DENSE_INDEXES, ENCODERS, EXACT, FACTORY, HASHING, PRESET_NAMES
from rag.search.config import RefineConfig
from rag.store.naming import commit_at


@dataclass
class IndexConfig:
    """Stage `index`: documents cut to chunks, encoded, and searched exactly or by keyword."""

    store: str | None = field(default=None, metadata=NOT_HASHED)
    """Live store whose documents are indexed (docs/retrieval.md); None: those of the input."""
    commit: int | None = field(default=None, metadata=NOT_HASHED)
    """Of that store; None: its newest, whose number is filled in."""
    store_root: str | None = field(default=None, metadata=NOT_HASHED)
    """Where the live store lies; it follows run.store. None: $PLUMBRULE_STORE, else the working \
directory."""
    beir: str | None = field(default=None, metadata=CONTENT)
    """Folder in BEIR's format whose corpus is indexed and whose judged queries measure it \
(docs/retrieval.md#beir); None: none."""
    beir_split: str = "test"
    """Of its judgements: qrels/<split>.tsv."""
    store_content: str = ""
    """Digest of the documents of that commit; filled in, whatever is given. "": no live store."""
    chunk_words: int = 60
    """Words per chunk, cut at sentence ends where there are any."""
    overlap_words: int = 0
    """Words that a chunk repeats from the one before it."""
    chunker: ChunkerConfig = field(default_factory=ChunkerConfig)
    """Where documents are cut; chunks of words, as above, by default."""
    readers: list[str] = field(default_factory=lambda: ["*"])
    """Principals that may read documents without a rule of their own (`meta.readers`); "*": \
everyone may; []: nobody may."""
    header: list[str] = field(default_factory=lambda: ["title"])
    """Fields that stand before a chunk when it is encoded and indexed, such as section, or a key \
of the documents' meta; []: none."""
    encoder: str = field(default=HASHING, metadata=CONTENT_IF_LOCAL)
    """hashing (TF-IDF by hash, works offline), one of a plug-in, or a sentence-transformers \
folder or hub name. A node's `encoder` input stands in its place (docs/retrieval.md)."""
    encoder_revision: str | None = None
    """40-hex commit of a hub encoder; None for a folder and for those that are no model."""
    dimensions: int = 1024
    """Of the vectors of an encoder that is no model, such as hashing."""
    dense_index: str = "flat"
    """flat: exact, by FAISS; exact: the same by matrix products, faster in batches; sq8, sqfp16, \
hnsw, ivf, ivf_pq: approximate; factory: as dense_factory says; or one of a plug-in."""
    dense_factory: str | None = None
    """FAISS factory string, such as IVF1024,Flat, for dense_index=factory; None: for all others."""
    shards: int = 1
    """Indexes that the vectors are cut into, of like size, each with files of its own; a search \
asks all of them."""
    search_effort: int | None = None
    """Lists that a query visits (IVF), or candidates that it keeps (HNSW); None: the type's own."""
    nominated: int | None = None
    """Rows of an approximate index that are scored exactly, per passage asked for; None: the \
type's own."""
    precision: str = "float32"
    """Of a neural encoder: float32, bfloat16, or auto: bfloat16 where the device has it."""
    vector_cache: str | None = field(default=None, metadata=NOT_HASHED)
    """Folder where a neural encoder's vectors are kept by content, for other indexes to use; \
None: they are kept until this one is built."""
    batch_size: int = field(default=64, metadata=NOT_HASHED)
    """Chunks encoded together."""
    principal: list[str] = field(default_factory=list)
    """For whom runs search this index: a name, and behind it those of its groups; []: for one who \
reads what everyone may."""
    filter: Any = None
    """Of every search that runs make, a mapping such as {year: {min: 1990}} \
(docs/retrieval.md#filters); None: they search everything."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """What every search that runs make does beside ranking (docs/retrieval.md#refinements)."""
    num_queries: int = 200
    """Questions that measure recall@k and MRR, spread evenly; where the documents carry any."""
    source: str = ""
    """Digests of the plug-ins that hold what is chosen by name; filled in, whatever is given."""

    def __post_init__(self) -> None:
        require_words("rag.chunk_words", self.chunk_words, "rag.overlap_words", self.overlap_words)
        self.store_content = ""
        if self.store is None:
            rule, fix = "be null without rag.store", "name the live store too, or take it out"
            require(self.commit is None, "rag.commit", self.commit, rule, fix)
        else:
            root = Path(store_root(self.store_root))
            self.commit, self.store_content = commit_at(root, self.store, self.commit)
        if self.beir is not None:
            fix = "take one of the two out"
            require(self.store is None, "rag.store", self.store, "be null with rag.beir", fix)
            there = Path(self.beir).is_dir()
            require(there, "rag.beir", self.beir, "be a folder that exists", "check the path")
        require_range("rag.shards", self.shards, 1, 10_000, "indexes")
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
        self._require_fitting_index()
        require_choice("rag.precision", self.precision, PRECISIONS)
        principal_of(self.principal, "rag.principal")
        parse_filter(self.filter, "rag.filter")
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

    def _require_fitting_index(self) -> None:
        """Raise ConfigError for settings that the type of dense index does not have."""
        given = self.dense_factory is not None
        rule = "be given" if self.dense_index == FACTORY else "be null"
        fix = f"rag.dense_index is {self.dense_index}"
        fits = given == (self.dense_index == FACTORY)
        require(fits, "rag.dense_factory", self.dense_factory, rule, fix)
        compares_all = self.dense_index in ("flat", EXACT)
        for name, unit in (("search_effort", ""), ("nominated", "rows")):
            value = getattr(self, name)
            if value is None:
                continue
            fix = f"rag.dense_index (={self.dense_index}) compares every vector"
            require(not compares_all, f"rag.{name}", value, "be null", fix)
            require_range(f"rag.{name}", value, 1, unit=unit)


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless each model that the settings need is there, and no other."""
    if "encoder" in node.inputs:
        encoder = node.config.encoder
        rule = f"stay hashing, its default, where node {node.name} has an encoder input"
        fix = f"leave it out, or take the input out: nodes.{node.name}.inputs.encoder=null"
        require(encoder == HASHING, "rag.encoder", encoder, rule, fix)
    require(
        not (runtime.faiss_gpu and node.config.dense_index in PRESET_NAMES),
        "runtime.faiss_gpu",
        runtime.faiss_gpu,
        f"be false for rag.dense_index (={node.config.dense_index}), which FAISS copies to no GPU",
        "use rag.dense_index=factory with rag.dense_factory=IVF4096,Flat, or rag.dense_index=exact",
    )
    refine: RefineConfig = node.config.refine
    named, given = refine.language_model.name_or_path, node.inputs.get("policy")
    if not refine.asks:
        fix = "set what asks it, such as rag.refine.rewrite, or take it out"
        rule = "be null where nothing asks a language model"
        require(named is None, "rag.refine.language_model.name_or_path", named, rule, fix)
        return
    require(
        (named is None) != (given is None),
        "rag.refine.language_model.name_or_path",
        named,
        f"name a model if and only if node {node.name} has no policy input "
        f"(={None if given is None else given.name}), since {refine.asks[0]} asks one",
        f"name one, or point the node at a policy: nodes.{node.name}.inputs.policy=sft"
        if named is None
        else f"take one of the two out: nodes.{node.name}.inputs.policy=null",
    )


def _precision_of_encoder(config: IndexConfig) -> tuple[str, str] | None:
    """Return that of a neural encoder; `auto` is resolved for one that comes as an input, too."""
    if config.encoder in ENCODERS and config.precision != "auto":
        return None
    return own_precision(config)


STAGE = StageKind(
    "index",
    IndexConfig,
    "rag.stage:run",
    {
        "documents": Slot(
            ("data",), read_if=lambda config: config.store is None and config.beir is None
        ),
        "encoder": Slot(("encoder",), required=False),
        "policy": Slot(POLICIES, required=False, read_if=lambda config: bool(config.refine.asks)),
    },
    section="rag",
    links={"store_root": "${run.store}"},
    opener="rag.retriever:open_index",
    check="rag.config:check_inputs",
    precision=_precision_of_encoder,
)
