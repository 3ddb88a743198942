"""Nothing leaks: 100,000 random searches by random principals, and each check taken away in turn.

A passage carries its rule in its text: every word of an unreadable passage begins with the name of
whoever may read it, so a leak is seen in whatever comes out, be it a text, a name or a number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds.articles import CPU, build_measured
from worlds.small_encoders import save_classifier

from plumbrule.data.records import Document
from plumbrule.errors import ConfigError, DataError
from plumbrule.store.artifacts import Artifact
from plumbrule.store.packaged_files import SHIPPED
from rag import access, columns, corpus
from rag.access import ANYONE, AccessRules, Principal
from rag.chunks import Chunk, read_chunks
from rag.corpus import Corpus
from rag.filters import OneOf
from rag.index.approximate import ApproximateIndex
from rag.index.bm25 import KeywordIndex
from rag.index.dense import VectorIndex
from rag.index.exact import ExactIndex
from rag.index.hash_encoder import HashingEncoder
from rag.index.presets import PRESETS, from_preset
from rag.index.protocol import Hits
from rag.search import cache, neighbours, passages_by_id, reranking, statistics, summaries
from rag.search.cache import SearchCache
from rag.search.config import AskedModelConfig, RefineConfig
from rag.search.engine import DenseIndex, HybridIndex, IndexRetriever
from rag.search.neighbours import with_neighbours
from rag.search.passages_by_id import cited_passages
from rag.search.reranking import rerank
from rag.search.statistics import describe, num_passing
from rag.search.summaries import SummaryIndex

NAMES = ("ann", "bob", "cy", "staff", "board")
WORDS = ("baker", "miller", "glazier", "painter", "dentist", "fisher", "rome", "lima", "oslo")
ROWS = 240


@lru_cache(maxsize=1)
def world() -> Corpus:
    """Return documents of four chunks with a rule each: everyone's, some names', or none."""
    draw = np.random.default_rng(0)
    chunks = []
    for row in range(ROWS):
        rules = [("*",), (), ("ann",), ("staff",), ("bob", "board"), ("cy", "staff")]
        readers = rules[draw.integers(len(rules))]
        words = " ".join(draw.choice(WORDS, size=6))
        text = f"{words} row{row}"
        start = (row % 4) * 100
        metadata = {"topic": str(draw.choice(WORDS[:3])), f"only{row}": row}
        name = f"d{row // 4}"
        chunks.append(
            Chunk(
                f"{name}#{row % 4}",
                name,
                start,
                start + len(text),
                "",
                text,
                metadata=metadata,
                readers=readers,
            )
        )
        chunks[-1] = chunks[-1]._replace(end=start + 100, text=text.ljust(100))
    return Corpus(chunks)


def may(row: int, who: Principal) -> bool:
    """Return whether a principal may read a row, from the rule's words."""
    rule = world().chunks[row].readers
    return "*" in rule or who.name in rule or any(group in rule for group in who.groups)


def principals(number: int, seed: int) -> list[Principal]:
    draw = np.random.default_rng(seed)
    found = [ANYONE]
    for _ in range(number - 1):
        groups = [name for name in NAMES[3:] if draw.random() < 0.3]
        found.append(Principal(str(draw.choice(["", *NAMES[:3], "eve"])), frozenset(groups)))
    return found


def unreadable(who: Principal) -> np.ndarray:
    return np.array([not may(row, who) for row in range(ROWS)])


@lru_cache(maxsize=1)
def indexes() -> dict[str, Any]:
    texts = [chunk.searched for chunk in world().chunks]
    encoder = HashingEncoder.fit(texts, 32)
    vectors = encoder.encode_passages(texts)
    stored = ExactIndex([vectors])
    dense: dict[str, Any] = {"flat": VectorIndex.build(vectors), "exact": stored}
    for name in ("hnsw", "ivf_pq"):
        coarse = VectorIndex.build(vectors, lambda v, name=name: from_preset(name, v))
        dense[name] = ApproximateIndex(coarse, stored, PRESETS[name].nominated)
    keywords = KeywordIndex.build(texts)
    found = {name: DenseIndex(index, encoder) for name, index in dense.items()}
    parts = [np.arange(start, start + 4) for start in range(0, ROWS, 4)]
    of_documents = KeywordIndex.build([" ".join(texts[row] for row in rows) for rows in parts])
    return {
        **found,
        "bm25": keywords,
        "hybrid": HybridIndex(found["exact"], keywords),
        "ranks": HybridIndex(found["flat"], keywords, "ranks"),
        "summaries": SummaryIndex(of_documents, parts),
    }


def random_queries(number: int, draw: np.random.Generator) -> list[str]:
    """Return words, names of rows, and what stands in passages that few may read."""
    words = np.array([*WORDS, *(f"row{row}" for row in range(ROWS))])
    return [" ".join(pair) for pair in words[draw.integers(len(words), size=(number, 2))]]


class Lengths:
    """A reranker that keeps what it was given to read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def score(self, pairs: Any) -> np.ndarray:
        self.read += [text for _, text in pairs]
        return np.array([float(len(text)) for _, text in pairs])


def rows_in(texts: list[str]) -> list[int]:
    """Return the rows whose texts stand, whole or in part, in some texts."""
    return [
        int(word[3:].rstrip("."))
        for text in texts
        for word in text.split()
        if word.startswith("row")
    ]


def leaks_in_searches(per_principal: int, number: int = 20) -> int:
    """Return how many unreadable passages searches find, with and without a filter."""
    draw, leaks = np.random.default_rng(1), 0
    for place, who in enumerate(principals(number, 2)):
        hidden = unreadable(who)
        for index in indexes().values():
            wanted = [None, {"topic": "baker"}, {"not": {"topic": "baker"}}][place % 3]
            queries = random_queries(per_principal, draw)
            for found in IndexRetriever(world(), index).search(queries, 3, who, wanted):
                leaks += sum(hidden[row] for row in rows_in([p.text for p in found]))
    return leaks


def leaks_in_summaries() -> int:
    """Return how often a summary is matched that was made of what may not be read."""
    leaks = 0
    for who in principals(20, 3):
        hidden = unreadable(who)
        retriever = IndexRetriever(world(), indexes()["summaries"])
        queries = [f"row{row}" for row in range(ROWS)]
        for row, found in enumerate(retriever.search(queries, 4, who)):
            leaks += int(bool(found) and hidden[row])  # row's word is in its document's summary
    return leaks


def all_rows() -> Hits:
    return Hits(np.arange(ROWS), np.linspace(1, 0, ROWS), 0.0)


def leaks_in_reranking() -> int:
    leaks = 0
    for who in principals(20, 4):
        hidden, reader = unreadable(who), Lengths()
        found = rerank("q", all_rows(), 10, reader, world(), who)
        leaks += sum(hidden[row] for row in rows_in(reader.read)) + int(hidden[found.rows].sum())
    return leaks


def leaks_in_neighbours() -> int:
    leaks = 0
    for who in principals(20, 5):
        hidden = unreadable(who)
        pairs = [(row, 1.0) for row in range(ROWS) if not hidden[row]]
        shown = with_neighbours(pairs, 2, world(), who)
        shown += with_neighbours([(row, 1.0) for row in range(ROWS)], 1, world(), who)
        leaks += sum(hidden[row] for row in rows_in([passage.text for passage in shown]))
    return leaks


def leaks_in_passages_by_id() -> int:
    leaks = 0
    for who in principals(20, 6):
        messages = set()
        for row, chunk in enumerate(world().chunks):
            try:
                cited_passages([chunk.id], world(), who)
                leaks += not may(row, who)
            except DataError as error:
                messages.add(str(error).replace(chunk.id, "<id>"))
        try:
            cited_passages(["d999#0"], world(), who)
        except DataError as error:
            messages.add(str(error).replace("d999#0", "<id>"))
        leaks += len(messages) - 1  # absent and unreadable are told in the same words
    return leaks


def leaks_in_counts() -> int:
    leaks = 0
    for who in principals(20, 7):
        hidden = unreadable(who)
        leaks += num_passing(None, world(), who) != (~hidden).sum()
        leaks += sum(
            num_passing(OneOf("id", (world().chunks[row].id,)), world(), who) != (not hidden[row])
            for row in range(ROWS)
        )
    return leaks


def leaks_in_descriptions() -> int:
    leaks = 0
    for who in principals(20, 8):
        told = describe(world(), who)
        rows = [row for row in range(ROWS) if may(row, who)]
        leaks += told["passages"] != len(rows)
        leaks += told["documents"] != len({world().chunks[row].document for row in rows})
        leaks += sum(f"only{row}" in told["fields"] for row in range(ROWS) if not may(row, who))
    return leaks


def leaks_in_errors() -> int:
    """Return how often an error tells a field that only unreadable passages have."""
    leaks = 0
    for who in principals(20, 9):
        hidden = unreadable(who)
        for row in range(0, ROWS, 5):
            try:
                world().select(who, {f"only{row}": row})
                leaks += hidden[row]
            except ConfigError as error:
                told = str(error).split("must be one of")[1]
                leaks += sum(f"only{other}," in told for other in range(ROWS) if hidden[other])
    return leaks


def leaks_in_the_cache() -> int:
    leaks = 0
    kept: SearchCache[Any] = SearchCache()
    retriever = IndexRetriever(world(), indexes()["bm25"], cache=kept)
    for who in [Principal("bob", frozenset({"staff"})), *principals(20, 10)]:
        hidden = unreadable(who)
        for found in retriever.search([*WORDS, "row7 row8 row9"], 5, who):
            leaks += sum(hidden[row] for row in rows_in([passage.text for passage in found]))
    return leaks


def everything(rules: AccessRules, principal: Principal) -> np.ndarray:
    """Return a mask that hides nothing: what a path has whose check was forgotten."""
    return np.ones(len(rules), dtype=bool)


PATHS: dict[str, tuple[Callable[[], int], Any, str, Any]] = {
    "search": (lambda: leaks_in_searches(20, 6), corpus, "readable", everything),
    "summaries": (
        leaks_in_summaries,
        summaries,
        "readable_summaries",
        lambda sources, selection: np.ones(len(sources), dtype=bool),
    ),
    "reranking": (leaks_in_reranking, reranking, "readable", everything),
    "neighbours": (leaks_in_neighbours, neighbours, "readable", everything),
    "passages_by_id": (leaks_in_passages_by_id, passages_by_id, "readable", everything),
    "counts": (leaks_in_counts, statistics, "readable", everything),
    "descriptions": (leaks_in_descriptions, statistics, "readable", everything),
    "errors": (
        leaks_in_errors,
        columns,
        "is_known",
        lambda column, rows: bool(column.present.any()),
    ),
    "cache": (leaks_in_the_cache, cache, "key_of", lambda principal, question: question),
}
"""Path -> (how its leaks are counted, where its check stands, its name, it taken away)."""


REFINEMENTS: dict[str, dict[str, Any]] = {
    "rewrite": {"rewrite": "multi_query"},
    "summaries": {"summaries": "lead"},
    "rerank": {"rerank": "cross_encoder", "depth": 20},
    "mmr": {"mmr": 0.7},
    "neighbours": {"neighbours": 1},
    "context": {"context": True},
    "all": {
        "rewrite": "decompose",
        "summaries": "written",
        "fusion": "ranks",
        "rerank": "cross_encoder",
        "depth": 20,
        "mmr": 0.7,
        "neighbours": 1,
        "context": True,
    },
}
"""Settings of `rag.refine`, each by itself and all together."""


def in_a_run(folder: Path, settings: dict[str, Any]) -> Artifact:
    """Return the world as an index stage builds it, a document's rule being that of its first row.

    A row's name stands in its document's text, as it does in `world`.
    """
    texts: dict[str, list[Chunk]] = {}
    for chunk in world().chunks:
        texts.setdefault(chunk.document, []).append(chunk)
    records = [
        Document(name, " ".join(f"{c.text.strip()}." for c in some), "", {"readers": rule})
        for name, some in texts.items()
        for rule in [list(some[0].readers)]
    ]
    if "rerank" in settings:
        classifier = save_classifier(folder / "classifier", WORDS)
        settings = {**settings, "rerank_model": str(classifier)}
    asked = AskedModelConfig(max_new_tokens=4)
    refine = RefineConfig(language_model=asked, **settings)
    policy = SHIPPED["plumbrule/atlas-base"]
    built = build_measured(folder, records, policy, refine=refine, chunk_words=7, dimensions=32)
    return built[0]


def leaks_in_a_run(index: Artifact, number: int, per_principal: int) -> int:
    """Return how many rows a run is shown that its principal may not read."""
    draw, leaks = np.random.default_rng(14), 0
    rules = {chunk.document: chunk.readers for chunk in read_chunks(index.file("passages.jsonl"))}
    opened = [index.open(CPU).retriever(method) for method in ("bm25", "hybrid")]
    for who in principals(number, 15):
        for retriever in opened:
            for found in retriever.search(random_queries(per_principal, draw), 3, who):
                shown = [f"d{row // 4}" for row in rows_in([p.text for p in found])]
                shown += [passage.document for passage in found]
                leaks += sum(not set(rules[name]) & who.identities for name in shown)
    return leaks


ASK_OFTEN = ("context", "all")
"""Whose indexes ask for an answer a chunk."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in ASK_OFTEN else ()) for n in REFINEMENTS],
)
def test_a_run_that_refines_its_searches_leaks_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaks without the checks: of the search, and of reranking and neighbours behind it."""
    index = in_a_run(tmp_path, REFINEMENTS[name])
    assert leaks_in_a_run(index, 6, 6) == 0
    for module in (corpus, reranking, neighbours):
        monkeypatch.setattr(module, "readable", everything)
    assert leaks_in_a_run(index, 3, 3) > 0


@pytest.mark.slow
def test_random_searches_of_a_refined_run_find_nothing_that_may_not_be_read(tmp_path: Path) -> None:
    assert leaks_in_a_run(in_a_run(tmp_path, REFINEMENTS["all"]), 40, 40) == 0


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leaks_and_each_does_without_its_check(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    count, module, name, without = PATHS[path]
    assert count() == 0
    monkeypatch.setattr(module, name, without)
    assert count() > 0


def test_every_place_that_checks_is_among_the_paths() -> None:
    """A module that calls the check has a test that takes it away."""
    from module_imports import MODULES

    using = {
        module
        for module, path in MODULES.items()
        if module.startswith("rag.") and "readable(corpus.rules" in path.read_text(encoding="utf-8")
    }
    tested = {module.__name__ for _, module, _, _ in PATHS.values()}
    assert using <= tested
    assert "readable(self.rules" in MODULES["rag.corpus"].read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [6_400, pytest.param(100_000, marks=pytest.mark.slow)])
def test_random_queries_by_random_principals_find_nothing_that_may_not_be_read(number: int) -> None:
    """Of eight kinds of index, of 20 principals, with filters and without."""
    assert len(indexes()) == 8
    assert leaks_in_searches(number // (20 * 8)) == 0


@pytest.mark.parametrize("name", ["flat", "exact", "bm25"])
def test_what_may_not_be_read_changes_nothing_that_is_found(name: str) -> None:
    """An index of the readable passages alone finds the same, with the same order and scores.

    BM25's mean length is that of all passages; here all have as many words.
    """
    encoder = HashingEncoder.fit([chunk.searched for chunk in world().chunks], 32)
    draw = np.random.default_rng(12)
    for who in principals(8, 13):
        rows = [row for row in range(ROWS) if may(row, who)]
        texts = [world().chunks[row].searched for row in rows]
        vectors = encoder.encode_passages(texts)
        alone: Any = {
            "flat": lambda v=vectors: DenseIndex(VectorIndex.build(v), encoder),
            "exact": lambda v=vectors: DenseIndex(ExactIndex([v]), encoder),
            "bm25": lambda t=texts: KeywordIndex.build(t),
        }[name]()
        small = IndexRetriever(Corpus([world().chunks[row] for row in rows]), alone)
        queries = random_queries(40, draw)
        found = IndexRetriever(world(), indexes()[name]).search(queries, 5, who)
        for one, other in zip(found, small.search(queries, 5, who), strict=True):
            scores = [[p.score for p in passages] for passages in (one, other)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-5)
            assert [p.id for p in one] == [p.id for p in other]


def test_rules_and_principals() -> None:
    rules = AccessRules([("*",), (), ("ann",), ("staff", "bob")])
    for who, expected in (
        (ANYONE, [True, False, False, False]),
        (Principal("ann"), [True, False, True, False]),
        (Principal("bob"), [True, False, False, True]),
        (Principal("eve", frozenset({"staff"})), [True, False, False, True]),
        (Principal("ann", frozenset({"staff"})), [True, False, True, True]),
    ):
        assert access.readable(rules, who).tolist() == expected
    with pytest.raises(ValueError, match="read-only"):
        access.readable(rules, ANYONE)[1] = True
    with pytest.raises(ConfigError, match=r"principal \(=\*\) must name one"):
        Principal("*")
    with pytest.raises(ConfigError, match=r"principal \(=\*\)"):
        Principal("ann", frozenset({"*"}))


def test_a_search_is_for_whom_it_says() -> None:
    retriever = IndexRetriever(world(), indexes()["bm25"], Principal("ann"))
    own = retriever.search(["baker miller"], 200)
    assert own == retriever.search(["baker miller"], 200, Principal("ann"))
    assert own != retriever.search(["baker miller"], 200, ANYONE)
