"""Settings of what a search does beside ranking by its method. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbrule.config import (
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    require,
    require_choice,
    require_named,
    require_range,
    require_source,
)
from plumbrule.registry import Registry
from plumbrule.store.model_files import model_damage
from rag.options import ASKS, READS, RERANKERS, REWRITERS, SUMMARIES

FUSIONS = ("convex", "ranks")
"""Of the hybrid's two rankings."""


@dataclass
class AskedModelConfig:
    """The language model that rewrites queries, grades passages, and writes summaries and contexts.

    It is copied into the index, and decodes greedily.
    """

    name_or_path: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder or hub name of a causal language model; None: the node's `policy` input."""
    revision: str | None = None
    """40-hex commit of a hub model; None for a folder."""
    pad_token: str | None = None
    """A token of the vocabulary, for a tokenizer that names no pad token."""
    max_new_tokens: int = 64
    """Longest answer, tokens."""
    batch_size: int = field(default=16, metadata=NOT_HASHED)
    """Answers decoded together; changes answers by rounding only."""

    def __post_init__(self) -> None:
        name = "rag.refine.language_model"
        require_named(name, self.name_or_path, self.revision, self.pad_token)
        require_range(f"{name}.max_new_tokens", self.max_new_tokens, 1, unit="tokens")
        require_range(f"{name}.batch_size", self.batch_size, 1, unit="rows")


@dataclass
class RefineConfig:
    """What is done beside ranking in every search that runs make; all off by default."""

    rewrite: str | None = None
    """rephrase: a language model words the query anew, which is searched for in its place; hyde: a
    made-up answer is searched for beside it; multi_query: other wordings; decompose: simpler
    questions; or one of a plug-in. None: the query as it is."""
    num_rewrites: int = 3
    """Wordings or questions beside the query, at most, with multi_query and decompose."""
    summaries: str | None = None
    """A document's summary is searched, and its chunks are returned. lead: its first sentence;
    field: its meta.summary; written: by the language model; or one of a plug-in. None: chunks are
    searched."""
    context: bool = False
    """Whether a language model writes, for each chunk without meta.context, what it is about in
    its document; that stands before the chunk where it is encoded and indexed."""
    fusion: str = "convex"
    """Of the hybrid's two rankings: convex, a sum of scaled scores; ranks, by reciprocal rank."""
    rerank: str | None = None
    """cross_encoder: rerank_model scores query and passage together; language_model: grades from 0
    to 3; or one of a plug-in. None: the order of the ranking."""
    rerank_model: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder or hub name of a sequence classification model, with cross_encoder; None: none."""
    rerank_revision: str | None = None
    """40-hex commit of a hub rerank_model; None for a folder."""
    depth: int = 50
    """Best passages of the ranking that are ordered again by rerank or chosen among by mmr."""
    mmr: float | None = None
    """Weight of relevance against novelty in maximal marginal relevance, in [0, 1]; None: passages
    are taken in order."""
    neighbours: int = 0
    """Chunks on each side of a passage that are shown with it, as one text without repetition."""
    language_model: AskedModelConfig = field(default_factory=AskedModelConfig)
    """Whom rewrite, rerank=language_model, summaries=written and context ask."""
    source: str = ""
    """Digests of the plug-ins that hold what is chosen by name; filled in, whatever is given."""

    def __post_init__(self) -> None:
        tables: dict[str, tuple[str | None, Registry[Any]]] = {
            "rewrite": (self.rewrite, REWRITERS),
            "summaries": (self.summaries, SUMMARIES),
            "rerank": (self.rerank, RERANKERS),
        }
        for name, (value, table) in tables.items():
            if value is not None:
                require_choice(f"rag.refine.{name}", value, table)
        require_choice("rag.refine.fusion", self.fusion, FUSIONS)
        require_range("rag.refine.num_rewrites", self.num_rewrites, 1, unit="texts")
        require_range("rag.refine.depth", self.depth, 1, unit="passages")
        require_range("rag.refine.neighbours", self.neighbours, 0, unit="chunks")
        if self.mmr is not None:
            require_range("rag.refine.mmr", self.mmr, 0.0, 1.0)
        self._require_reranker()
        sources = {
            name: table.source(value)
            for name, (value, table) in tables.items()
            if value is not None and value in table
        }
        self.source = " ".join(f"{name}:{digest}" for name, digest in sources.items() if digest)

    def _require_reranker(self) -> None:
        """Raise ConfigError unless a model to rerank with is given where one is read, and sound."""
        named = self.rerank_model
        if self.rerank is not None and self.rerank not in RERANKERS:  # refused by its name already
            return
        if self.rerank is None or READS not in RERANKERS.option(self.rerank).traits:
            rule, fix = "be null", f"rag.refine.rerank is {self.rerank}, which reads no such model"
            require(named is None, "rag.refine.rerank_model", named, rule, fix)
            revision = self.rerank_revision
            require(revision is None, "rag.refine.rerank_revision", revision, rule, fix)
            return
        rule = f"name a sequence classification model for rag.refine.rerank (={self.rerank})"
        require(named is not None, "rag.refine.rerank_model", named, rule, "give its folder")
        if named is None:  # as `require` says, where it lets checks go on
            return
        require_source(
            "rag.refine.rerank_model", named, "rag.refine.rerank_revision", self.rerank_revision
        )
        if Path(named).is_dir():
            damage = reranker_damage(Path(named))
            rule = f"hold a whole sequence classification model in safetensors ({damage})"
            fix = "convert it, or give another"
            require(damage is None, "rag.refine.rerank_model", named, rule, fix)

    @property
    def asks(self) -> list[str]:
        """Return the settings that ask the language model."""
        found = []
        if self.rewrite is not None:
            found.append(f"rag.refine.rewrite (={self.rewrite})")
        if self.rerank is not None and ASKS in RERANKERS.option(self.rerank).traits:
            found.append(f"rag.refine.rerank (={self.rerank})")
        if self.writes_summaries:
            found.append(f"rag.refine.summaries (={self.summaries})")
        return [*found, *(["rag.refine.context (=true)"] if self.context else [])]

    @property
    def asks_in_search(self) -> bool:
        """Return whether the language model is asked when a search is made."""
        graded = self.rerank is not None and ASKS in RERANKERS.option(self.rerank).traits
        return graded or self.rewrite is not None

    @property
    def asks_in_building(self) -> bool:
        """Return whether the language model is asked when the index is built."""
        return self.context or self.writes_summaries

    @property
    def writes_summaries(self) -> bool:
        """Return whether the language model writes summaries."""
        return self.summaries is not None and ASKS in SUMMARIES.option(self.summaries).traits

    @property
    def changes_searches(self) -> bool:
        """Return whether searches differ from those of the method alone."""
        return self.reads_more or self.rewrite is not None or self.fusion != "convex"

    @property
    def reads_more(self) -> bool:
        """Return whether what a ranking found is changed, or summaries are ranked."""
        chosen = (self.rerank, self.mmr, self.summaries)
        return self.neighbours > 0 or any(one is not None for one in chosen)


def reranker_damage(folder: Path) -> str | None:
    """Return what is wrong with a folder of a sequence classification model; None: nothing."""
    damaged = model_damage(folder) if folder.is_dir() else "it is no folder"
    if damaged is None and not any(folder.glob("*.safetensors")):
        damaged = "it holds no safetensors weights"
    return damaged
