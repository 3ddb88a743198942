"""An opened index: queries in, passages out.

`open_index` is what feedback, PPO and eval call, through `Inputs.retriever`. What it opens is
frozen and complete: passages, both indexes and the encoder lie in the artifact. Whatever does not
fit together is refused here, by name, and not by a wrong answer later. How a search goes is in
`rag/search/engine.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumbrule.config import require_choice
from plumbrule.errors import ArtifactError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, sha256
from plumbrule.store.json_files import read_json
from rag.access import Principal, principal_of
from rag.chunks import read_chunks
from rag.corpus import Corpus
from rag.filters import parse_filter
from rag.index.bm25 import KeywordIndex
from rag.index.dense_files import VECTORS, index_in_memory, open_dense
from rag.index.encoders import NEURAL, Encoder, content_of, load_encoder, properties_of
from rag.index.headers import searched_texts
from rag.index.identity import require_same
from rag.index.protocol import SearchIndex, VectorSearch
from rag.keyword.words import SETTINGS
from rag.options import ENCODERS
from rag.search.engine import DenseIndex, HybridIndex, IndexRetriever, Refinement
from rag.search.refining import open_answer, open_reranker, open_summaries, rewritten
from rag.search.refitting import EncoderOfReaders, RefittedIndexes

PASSAGES, KEYWORDS, ENCODER, FINGERPRINT = (
    "passages.jsonl",
    "bm25",
    "encoder",
    "fingerprint.json",
)
METHODS = ("bm25", "dense", "hybrid")


@dataclass(frozen=True)
class OpenedIndex:
    """An index artifact, of which a retriever reads what its method needs.

    device: of a neural encoder; auto is cuda if there is one. faiss_gpu: whether an approximate
    FAISS index is searched on a GPU.
    """

    artifact: Artifact
    device: str = "auto"
    faiss_gpu: bool = False

    def retriever(
        self,
        method: str,
        principal: Principal | None = None,
        filter: Mapping[str, Any] | None = None,
        refined: bool = True,
    ) -> IndexRetriever:
        """Return the retriever that ranks by `method`: bm25, dense or hybrid.

        Args: principal: for whom it searches; passages that it may not read are not found. filter:
            of every search (`rag/filters.py`). None: those that the index was built with
            (`rag.principal`, `rag.filter`). refined: whether it does what `rag.refine` said.
        Raises: ConfigError: an unknown method, a filter that is none or of an unknown field, or not
            exactly one FAISS. ArtifactError: files that are missing, damaged or don't belong
            together.
        """
        require_choice("retrieval.method", method, METHODS)
        about = read_fingerprint(self.artifact.file(FINGERPRINT))
        given = about["search"]
        asking = principal_of(given.get("principal", ())) if principal is None else principal
        wanted = parse_filter(given.get("filter") if filter is None else filter, "rag.filter")
        facts = about["refine"] if refined else {}
        opened = open_retriever(self.artifact, about, method, self.device, facts, self.faiss_gpu)
        opened.corpus.select(asking, wanted, "rag.filter")  # an unknown field is told here
        return replace(opened, principal=asking, wanted=wanted)


def open_index(artifact: Artifact, runtime: RuntimeConfig) -> OpenedIndex:
    """Return an index artifact, opened for the runtime's device; nothing is read yet."""
    return OpenedIndex(artifact, runtime.device, runtime.faiss_gpu)


def open_retriever(
    artifact: Artifact,
    about: Mapping[str, Any],
    method: str,
    device: str,
    facts: Mapping[str, Any],
    faiss_gpu: bool = False,
) -> IndexRetriever:
    """Return the retriever of an index artifact, as `OpenedIndex.retriever` says.

    Args: about: its fingerprint. facts: of its refinement, as `rag/search/refining.py` wrote them;
        {}: it has none.
    """
    path = artifact.file(PASSAGES)
    if sha256(path) != about["passages_sha256"]:
        raise ArtifactError(
            f"{path} is not what {FINGERPRINT} was written for; build the index again."
        )
    corpus = Corpus(read_chunks(path))
    encoder = lru_cache(maxsize=1)(lambda: _encoder(artifact, about, device))
    texts = lru_cache(maxsize=1)(lambda: searched_texts(corpus.chunks, about["header"]))
    same = lru_cache(maxsize=1)(lambda: _same_encoder(artifact, about, encoder()))
    encoders = lru_cache(maxsize=1)(lambda: _encoders(about, same(), texts))
    fusion = facts.get("fusion", "convex")

    def rank(
        vectors: Callable[[], VectorSearch],
        keywords: Callable[[], KeywordIndex],
        refitted: Callable[[], RefittedIndexes],
    ) -> SearchIndex[Sequence[str]]:
        if method == "bm25":
            return keywords()
        found = vectors()
        anew = refitted() if encoders().is_fitted else None
        dense = DenseIndex(found, same(), about["encoder"], refitted=anew)
        return dense if method == "dense" else HybridIndex(dense, keywords(), fusion)

    if facts.get("summaries") is not None:
        index: SearchIndex[Sequence[str]] = open_summaries(artifact, rank, corpus, encoders)
    else:
        index = rank(
            lambda: _vectors(artifact, about, len(corpus), encoder(), device, faiss_gpu),
            lambda: _keywords(artifact, about, texts, len(corpus)),
            lambda: RefittedIndexes(
                encoders(), texts, lambda v: index_in_memory(v, about["dense"], device)
            ),
        )
    if not facts:
        return IndexRetriever(corpus, index)
    answer = open_answer(artifact, facts, device)
    refinement = Refinement(
        open_reranker(artifact, facts, answer, device),
        facts["mmr"],
        None if facts["mmr"] is None else encoders(),
        facts["depth"],
        facts["neighbours"],
    )
    return IndexRetriever(corpus, rewritten(index, facts, answer), refinement=refinement)


def read_fingerprint(path: Path) -> dict[str, Any]:
    """Return what `fingerprint.json` says of an index.

    Raises: ArtifactError: it is damaged.
    """
    try:
        about = read_json(path)
        return {
            "passages_sha256": about["passages_sha256"],
            "encoder": dict(about["encoder"]),
            "dense": dict(about.get("dense", {})),
            "keywords": dict(about.get("keywords", {})),
            "search": dict(about.get("search", {})),
            "refine": dict(about.get("refine", {})),
            "header": [str(name) for name in about.get("header", ("title",))],
        }
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); build the index again.") from None


def _keywords(
    artifact: Artifact, about: Mapping[str, Any], texts: Callable[[], Sequence[str]], passages: int
) -> KeywordIndex:
    path = artifact.path / KEYWORDS
    require_same(
        about["keywords"], SETTINGS, f"keyword index {path}", "this version's tokenisation"
    )
    keywords = KeywordIndex.load(artifact.file(KEYWORDS), texts)
    _require_count(path, len(keywords), passages)
    return keywords


def _encoder(artifact: Artifact, about: Mapping[str, Any], device: str) -> Encoder:
    made_by, folder = about["encoder"], artifact.file(ENCODER)
    return load_encoder(made_by["kind"], folder, device, made_by.get("precision", "float32"))


def _encoders(
    about: Mapping[str, Any], encoder: Encoder, texts: Callable[[], Sequence[str]]
) -> EncoderOfReaders:
    """Return the encoder of an index, fitted anew for those who may not read all passages."""
    kind, size = about["encoder"]["kind"], encoder.dimensions
    fit = None if kind == NEURAL else lambda some: ENCODERS[kind].fit(some, size)
    return EncoderOfReaders(encoder, texts, fit)


def _same_encoder(artifact: Artifact, about: Mapping[str, Any], encoder: Encoder) -> Encoder:
    """Return the encoder. Raises: ArtifactError: it is not the one that made the index."""
    folder = artifact.file(ENCODER)
    here = {"content": content_of(folder), **properties_of(encoder)}
    index = f"vector index {artifact.path / VECTORS}"
    require_same(about["encoder"], here, index, f"the encoder at {folder}")
    return encoder


def _vectors(
    artifact: Artifact,
    about: Mapping[str, Any],
    passages: int,
    encoder: Encoder,
    device: str,
    faiss_gpu: bool,
) -> VectorSearch:
    vectors = open_dense(artifact, about["dense"], device, faiss_gpu)
    path = artifact.path / VECTORS
    _require_count(path, len(vectors), passages)
    if vectors.dimensions != encoder.dimensions:
        raise ArtifactError(
            f"{path} (={vectors.dimensions} dimensions) must be searched with "
            f"the encoder that made it; {about['encoder']['name']} gives {encoder.dimensions} "
            "dimensions: build the index again."
        )
    return vectors


def _require_count(path: Path, count: int, passages: int) -> None:
    if count != passages:
        raise ArtifactError(
            f"{path} (={count} entries) must have one per passage (={passages}); "
            "build the index again."
        )
