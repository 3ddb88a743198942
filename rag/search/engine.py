"""A search from texts to passages, for a principal.

1 the filter is parsed, its fields are checked, and the rows are selected that it passes and that
  the principal may read (`rag/corpus.py`);
2 the index finds the best of them, `depth` a query;
3 a reranker orders them again, where there is one;
4 maximal marginal relevance chooses among them, where it is asked for;
5 the k first become passages, with their neighbours where those are asked for.

The same query gives the same passages whether it is asked alone, in a batch or twice in a batch
(a query that repeats is searched once). A blank query finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from plumbrule.config import require, require_choice, require_range
from plumbrule.protocols import Passage
from rag.access import ANYONE, Principal
from rag.corpus import Corpus
from rag.filters import Filter, filter_of
from rag.index.encoders import Encoder
from rag.index.identity import require_same
from rag.index.protocol import NOTHING, Hits, SearchIndex, Selection
from rag.index.ranking import DENSE_WEIGHT, POOL, fuse, fuse_ranks
from rag.search.cache import SearchCache
from rag.search.config import FUSIONS
from rag.search.diversity import marginal_relevance
from rag.search.neighbours import with_neighbours
from rag.search.refitting import EncoderOfReaders, RefittedIndexes
from rag.search.reranking import Reranker, rerank
from rag.search.statistics import num_passing

BLOCK = 1024
"""Queries searched together; bounds memory, changes no result."""


class SearchResult(NamedTuple):
    """What a search finds for one query."""

    passages: tuple[Passage, ...]
    num_passing: int
    """Passages that the principal may read and the filter passes; no others can be found."""

    def shortfall(self, k: int) -> str | None:
        """Return a sentence where fewer than k pass; None: enough do."""
        if self.num_passing >= k:
            return None
        return f"{self.num_passing} passages that may be read pass the filter, fewer than k (={k})."


@dataclass(frozen=True)
class DenseIndex:
    """Ranks texts by the cosine of encoded query and passage."""

    vectors: SearchIndex[np.ndarray]
    encoder: Encoder
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """What `fingerprint.json` says of the encoder of the passages."""
    refitted: RefittedIndexes | None = field(kw_only=True)
    """Of those who may not read all rows, where the encoder was fitted on them; None: it was not,
    and is the same for everyone. Whoever makes an index says which, since with None a fitted
    encoder's weights tell what stands in passages that may not be read."""

    def search(
        self, queries: Sequence[str], depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return each query's best `depth` passages, as far as the index finds them.

        A neural encoder reads a query up to its limit; what is beyond it is not searched for.
        """
        if self.refitted is not None and is_partial(selection):
            return _among_readable(self.refitted, queries, depth, selection)
        return self.vectors.search(self.encoder.encode_queries(queries), depth, selection)

    def search_encoded(
        self,
        vectors: np.ndarray,
        made_by: Mapping[str, Any],
        depth: int,
        selection: Selection | None = None,
    ) -> list[Hits]:
        """Return what `search` returns, of queries that were encoded elsewhere.

        Args: vectors: (q, d) float32. made_by: properties of their encoder, as `fingerprint.json`
            states them.
        Raises: ArtifactError: it is not the encoder of the passages; both are named. ConfigError:
            for a principal that may not read all passages, an encoder that was fitted on them.
        """
        require_same(self.made_by, made_by, "the index", "the encoder of the queries")
        require(
            self.refitted is None or not is_partial(selection),
            "the encoder of the queries",
            self.made_by.get("name", "one that was fitted on all passages"),
            "know no passages that the principal may not read",
            "give the queries as texts, to `search`",
        )
        return self.vectors.search(vectors, depth, selection)


def is_partial(selection: Selection | None) -> TypeGuard[Selection]:
    """Return whether some rows may not be read."""
    return selection is not None and not selection.readable.all()


def _among_readable(
    refitted: RefittedIndexes, queries: Sequence[str], depth: int, selection: Selection
) -> list[Hits]:
    """Return what an index of the readable rows alone finds, by their numbers."""
    rows = np.flatnonzero(selection.readable)
    if not len(rows):
        return [NOTHING] * len(queries)
    encoder, vectors = refitted.of(selection.readable)
    vectors_of_queries = encoder.encode_queries(queries)
    found = vectors.search(vectors_of_queries, depth, selection.among_readable())
    return [Hits(rows[hits.rows], hits.scores, hits.floor) for hits in found]


@dataclass(frozen=True)
class HybridIndex:
    """Ranks texts by both, fused (`rag/index/ranking.py`).

    fusion: convex, the sum of scaled scores; or ranks, reciprocal rank fusion.
    """

    dense: SearchIndex[Sequence[str]]
    keywords: SearchIndex[Sequence[str]]
    fusion: str = "convex"

    def __post_init__(self) -> None:
        require_choice("fusion", self.fusion, FUSIONS)

    def search(
        self, queries: Sequence[str], depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return the best `depth` passages of each query's two pools."""
        pool = max(POOL, depth)
        pairs = zip(
            self.dense.search(queries, pool, selection),
            self.keywords.search(queries, pool, selection),
            strict=True,
        )
        if self.fusion == "ranks":
            return [fuse_ranks(pair, depth) for pair in pairs]
        return [fuse(dense, keyword, DENSE_WEIGHT, depth) for dense, keyword in pairs]


@dataclass(frozen=True)
class Refinement:
    """What is done with what the index found.

    reranker: orders the `depth` best again; None: none does. mmr: weight of relevance against
    novelty in [0, 1]; None: passages are taken in order. encoders: of the texts that `mmr`
    compares. neighbours: passages on each side that are shown with one that is found.
    """

    reranker: Reranker | None = None
    mmr: float | None = None
    encoders: EncoderOfReaders | None = None
    depth: int = 50
    neighbours: int = 0

    def __post_init__(self) -> None:
        require_range("refinement.depth", self.depth, 1, unit="passages")
        require_range("refinement.neighbours", self.neighbours, 0, unit="passages")
        if self.mmr is not None:
            require_range("refinement.mmr", self.mmr, 0.0, 1.0)
            rule, fix = "have an encoder that compares passages", "give one, or leave mmr out"
            require(self.encoders is not None, "refinement.mmr", self.mmr, rule, fix)


@dataclass(frozen=True)
class IndexRetriever:
    """A Retriever over frozen passages.

    principal: for whom it searches unless a search names another. wanted: filter of every search.
    cache: keeps what was found; None: nothing is kept.
    """

    corpus: Corpus
    index: SearchIndex[Sequence[str]]
    principal: Principal = ANYONE
    wanted: Filter | None = None
    refinement: Refinement = field(default_factory=Refinement)
    cache: SearchCache[tuple[Passage, ...]] | None = None
    itself: object = field(default_factory=object, init=False, repr=False, compare=False)
    """What the cache tells it from other retrievers by, whose indexes differ."""

    def search(
        self,
        queries: Sequence[str],
        k: int,
        principal: Principal | None = None,
        filter: Filter | Mapping[str, Any] | str | None = None,
    ) -> list[list[Passage]]:
        """Return up to k passages per query, best first; ties by passage.

        A query that is blank, or shares nothing with any passage, finds fewer than k, or none.

        Args: principal, filter: of this search; None: those of the retriever.
        Raises: ConfigError: k below 1; a filter that is none, or of an unknown field.
        """
        return [list(found.passages) for found in self.find(queries, k, principal, filter)]

    def find(
        self,
        queries: Sequence[str],
        k: int,
        principal: Principal | None = None,
        filter: Filter | Mapping[str, Any] | str | None = None,
    ) -> list[SearchResult]:
        """Return what `search` returns, and how many passages could have been found."""
        require_range("retrieval.num_passages", k, 1, unit="passages")
        asking = self.principal if principal is None else principal
        wanted = filter_of(self.wanted if filter is None else filter)
        selection = self.corpus.select(asking, wanted)
        asked = repr(wanted)  # as tuples, `all` equals `any`, and 1 equals true
        found: dict[str, tuple[Passage, ...]] = {}
        for query in queries:
            kept = (
                None
                if self.cache is None
                else self.cache.get(asking, (self.itself, query, k, asked))
            )
            if kept is not None or not query.strip():
                found[query] = kept or ()
        todo = [query for query in dict.fromkeys(queries) if query not in found]
        for start in range(0, len(todo), BLOCK):
            block = todo[start : start + BLOCK]
            depth = self._depth(k)
            narrowed = None if selection.whole and not selection.filtered else selection
            for query, hits in zip(block, self.index.search(block, depth, narrowed), strict=True):
                found[query] = self._passages(query, hits, k, asking, selection)
                if self.cache is not None:
                    self.cache.keep(asking, (self.itself, query, k, asked), found[query])
        passing = num_passing(wanted, self.corpus, asking)
        return [SearchResult(found[query], passing) for query in queries]

    def _depth(self, k: int) -> int:
        refined = self.refinement.reranker is not None or self.refinement.mmr is not None
        return max(k, self.refinement.depth) if refined else k

    def _passages(
        self, query: str, hits: Hits, k: int, principal: Principal, selection: Selection
    ) -> tuple[Passage, ...]:
        """Return the k best of `hits`, refined."""
        how = self.refinement
        if how.reranker is not None:
            hits = rerank(query, hits, self._depth(k), how.reranker, self.corpus, principal)
        pairs = [(int(r), float(s)) for r, s in zip(hits.rows, hits.scores, strict=True)]
        if how.mmr is not None and how.encoders is not None and pairs:
            encoder = how.encoders.of(selection.readable)
            pairs = self._varied(query, pairs, k, how.mmr, encoder)
        pairs = pairs[:k]
        if how.neighbours:
            return tuple(with_neighbours(pairs, how.neighbours, self.corpus, principal))
        return tuple(self.corpus.passage(row, score) for row, score in pairs)

    def _varied(
        self, query: str, pairs: list[tuple[int, float]], k: int, weight: float, encoder: Encoder
    ) -> list[tuple[int, float]]:
        texts = [self.corpus.chunks[row].searched for row, _ in pairs]
        vectors = encoder.encode_passages(texts)
        relevance = vectors @ encoder.encode_queries([query])[0]
        return [pairs[place] for place in marginal_relevance(relevance, vectors, k, weight)]
