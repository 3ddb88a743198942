"""Nothing leaks: 100,000 random searches by random principals, and each check taken away in turn.

A passage carries its rule in its text: every word of an unreadable passage begins with the name of
whoever may read it, so a leak is seen in whatever comes out, be it a text, a name or a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
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
from rag.chunking.config import ChunkerConfig
from rag.chunks import Chunk, read_chunks
from rag.corpus import Corpus
from rag.filters import OneOf
from rag.index import bm25
from rag.index.approximate import ApproximateIndex
from rag.index.bm25 import KeywordIndex
from rag.index.dense import VectorIndex
from rag.index.exact import ExactIndex
from rag.index.hash_encoder import HashingEncoder
from rag.index.presets import PRESETS, from_preset
from rag.index.protocol import Hits
from rag.keyword.scoring import Counted
from rag.search import cache, engine, neighbours, passages_by_id, reranking, statistics, summaries
from rag.search.cache import SearchCache
from rag.search.config import AskedModelConfig, RefineConfig
from rag.search.engine import DenseIndex, HybridIndex, IndexRetriever, Refinement
from rag.search.neighbours import with_neighbours
from rag.search.passages_by_id import cited_passages
from rag.search.refitting import EncoderOfReaders, RefittedIndexes
from rag.search.reranking import rerank
from rag.search.statistics import describe, num_passing
from rag.search.summaries import SummaryIndex

NAMES = ("ann", "bob", "cy", "staff", "board")
WORDS = ("baker", "miller", "glazier", "painter", "dentist", "fisher", "rome", "lima", "oslo")
ROWS = 240


@lru_cache(maxsize=1)
def world() -> Corpus:
    """Return documents of four chunks with a rule each: everyone's, some names', or none.

    All chunks of every second document have one rule.
    """
    draw = np.random.default_rng(0)
    chunks = []
    for row in range(ROWS):
        rules = [("*",), (), ("ann",), ("staff",), ("bob", "board"), ("cy", "staff")]
        readers = rules[draw.integers(len(rules))]
        if row // 4 % 2 and row % 4:
            readers = chunks[-1].readers
        words = " ".join(draw.choice(WORDS, size=draw.integers(3, 10)))
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


def hashing(texts: Sequence[str]) -> HashingEncoder:
    return HashingEncoder.fit(texts, 32)


def indexes_of(
    chunks: Sequence[Chunk], summarised: Sequence[str], fixed: HashingEncoder | None = None
) -> dict[str, Any]:
    """Return an index of each kind over chunks.

    Args: summarised: documents with a summary. fixed: an encoder that was fitted on other texts,
        the same for everyone as a neural one is; None: one that is fitted on the chunks.
    """
    texts = [chunk.searched for chunk in chunks]
    encoder = hashing(texts) if fixed is None else fixed
    encoders = EncoderOfReaders(encoder, lambda: texts, hashing if fixed is None else None)
    vectors = encoder.encode_passages(texts)
    stored = ExactIndex([vectors])
    dense: dict[str, Any] = {"flat": VectorIndex.build(vectors), "exact": stored}
    for name in ("hnsw", "ivf_pq"):
        coarse = VectorIndex.build(vectors, lambda v, name=name: from_preset(name, v))
        dense[name] = ApproximateIndex(coarse, stored, PRESETS[name].nominated)
    keywords = KeywordIndex.build(texts)

    def refitted(*given: Any) -> RefittedIndexes | None:
        return RefittedIndexes(encoders, *given) if fixed is None else None

    found = {
        name: DenseIndex(index, encoder, refitted=refitted(lambda: texts, exact_as(name)))
        for name, index in dense.items()
    }
    rows = {name: [r for r, c in enumerate(chunks) if c.document == name] for name in summarised}
    parts = [np.array(some) for some in rows.values()]
    told = [" ".join(texts[row] for row in some) for some in parts]

    def passages_of(readable: np.ndarray) -> np.ndarray:
        mask = np.zeros(len(chunks), dtype=bool)
        mask[np.concatenate([parts[place] for place in np.flatnonzero(readable)])] = True
        return mask

    fitted = encoders.of(passages_of(np.ones(len(parts), dtype=bool)))
    of_summaries = DenseIndex(
        ExactIndex([fitted.encode_passages(told)]),
        fitted,
        refitted=refitted(lambda: told, lambda v: ExactIndex([v]), passages_of),
    )
    return {
        **found,
        "bm25": keywords,
        "hybrid": HybridIndex(found["exact"], keywords),
        "ranks": HybridIndex(found["flat"], keywords, "ranks"),
        "summaries": SummaryIndex(KeywordIndex.build(told), parts),
        "dense summaries": SummaryIndex(of_summaries, parts),
        "encoders": encoders,
    }


def exact_as(name: str) -> Callable[[np.ndarray], Any]:
    return VectorIndex.build if name == "flat" else lambda vectors: ExactIndex([vectors])


@lru_cache(maxsize=1)
def fixed_encoder() -> HashingEncoder:
    return hashing([*WORDS, *(f"row{row}" for row in range(ROWS))])


@lru_cache(maxsize=2)
def indexes(fixed: bool = False) -> dict[str, Any]:
    """Return an index of each kind over the world."""
    encoder = fixed_encoder() if fixed else None
    return indexes_of(world().chunks, list(world().by_document), encoder)


KINDS = (
    "flat",
    "exact",
    "hnsw",
    "ivf_pq",
    "bm25",
    "hybrid",
    "ranks",
    "summaries",
    "dense summaries",
)


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
        for index in (indexes()[name] for name in KINDS):
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


def world_records() -> list[Document]:
    """Return the world's documents, a document's rule being that of its first row."""
    texts: dict[str, list[Chunk]] = {}
    for chunk in world().chunks:
        texts.setdefault(chunk.document, []).append(chunk)
    return [
        Document(name, " ".join(f"{c.text.strip()}." for c in some), "", {"readers": rule})
        for name, some in texts.items()
        for rule in [list(some[0].readers)]
    ]


def in_a_run(
    folder: Path, settings: dict[str, Any], records: Sequence[Document] | None = None
) -> Artifact:
    """Return the world as an index stage builds it. Args: records: None: all of it."""
    records = world_records() if records is None else records
    settings = dict(settings)
    further = {name: settings.pop(name) for name in ("chunker", "chunk_words") if name in settings}
    if "rerank" in settings:
        classifier = save_classifier(folder / "classifier", WORDS)
        settings = {**settings, "rerank_model": str(classifier)}
    asked = AskedModelConfig(max_new_tokens=4)
    refine = RefineConfig(language_model=asked, **settings)
    policy = SHIPPED["plumbrule/atlas-base"]
    sizes = {"chunk_words": 7, "dimensions": 32, **further}
    return build_measured(folder, records, policy, refine=refine, **sizes)[0]


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
    """Of nine kinds of index, of 20 principals, with filters and without."""
    assert leaks_in_searches(-(-number // (20 * len(KINDS)))) == 0


REFINED = ("plain", "rerank", "mmr", "neighbours")
FILTERS: tuple[Any, ...] = (None, {"not": {"topic": "baker"}})


def refinement(name: str, encoders: EncoderOfReaders) -> Refinement:
    how = {
        "plain": {},
        "rerank": {"reranker": Lengths(), "depth": 20},
        "mmr": {"mmr": 0.6, "encoders": encoders, "depth": 20},
        "neighbours": {"neighbours": 1},
    }[name]
    return Refinement(**how)  # type: ignore[arg-type]


@lru_cache(maxsize=8)
def without(who: Principal, fixed: bool = False) -> tuple[Corpus, dict[str, Any]]:
    """Return what a principal may read, and indexes of it from which all else was removed."""
    kept = [chunk for row, chunk in enumerate(world().chunks) if may(row, who)]
    rows = world().by_document.items()
    whole = [name for name, some in rows if all(may(row, who) for row in some)]
    return Corpus(kept), indexes_of(kept, whole, fixed_encoder() if fixed else None)


def traces_of_the_unreadable(kinds: Sequence[str], refined: Sequence[str], number: int) -> int:
    """Return how many searches find other passages, or another order or score, than there would be
    if all that may not be read were removed.
    """
    draw, traces = np.random.default_rng(12), 0
    for who in (ANYONE, Principal("ann"), Principal("bob", frozenset({"staff"}))):
        corpus, alone = without(who)
        for kind, how, wanted in product(kinds, refined, FILTERS):
            queries = [*random_queries(number, draw), "fishermen romans", "row7", "zzxqj"]
            found, expected = (
                IndexRetriever(c, made[kind], refinement=refinement(how, made["encoders"])).find(
                    queries, 5, who, wanted
                )
                for c, made in ((world(), indexes()), (corpus, alone))
            )
            traces += sum(one != other for one, other in zip(found, expected, strict=True))
    return traces


EXACT_KINDS = tuple(kind for kind in KINDS if kind not in ("hnsw", "ivf_pq"))


@pytest.mark.parametrize("kind", EXACT_KINDS)
def test_what_may_not_be_read_changes_nothing_that_is_found(kind: str) -> None:
    """An index from which it was removed finds the same passages, in order, with equal scores."""
    assert traces_of_the_unreadable([kind], REFINED, 6) == 0


@pytest.mark.parametrize("kind", ["hnsw", "ivf_pq"])
def test_an_approximate_index_is_exact_where_its_encoder_was_fitted_on_what_may_not_be_read(
    kind: str,
) -> None:
    draw = np.random.default_rng(16)
    for who in (ANYONE, Principal("bob", frozenset({"staff"}))):
        corpus, alone = without(who)
        queries = random_queries(10, draw)
        found = IndexRetriever(world(), indexes()[kind]).find(queries, 5, who)
        assert found == IndexRetriever(corpus, alone["exact"]).find(queries, 5, who)


@pytest.mark.parametrize("kind", ["flat", "exact", "hybrid", "ranks", "dense summaries"])
def test_with_an_encoder_that_is_the_same_for_everyone_the_unreadable_changes_nothing(
    kind: str,
) -> None:
    """The index of all passages is searched, and passes over what may not be read."""
    draw = np.random.default_rng(18)
    for who in (ANYONE, Principal("ann"), Principal("bob", frozenset({"staff"}))):
        corpus, alone = without(who, fixed=True)
        for how, wanted in product(REFINED, FILTERS):
            queries = [*random_queries(6, draw), "fishermen romans", "row7", "zzxqj"]
            found, expected = (
                IndexRetriever(c, made[kind], refinement=refinement(how, made["encoders"])).find(
                    queries, 5, who, wanted
                )
                for c, made in ((world(), indexes(fixed=True)), (corpus, alone))
            )
            for one, other in zip(found, expected, strict=True):
                assert one.num_passing == other.num_passing
                assert [p.id for p in one.passages] == [p.id for p in other.passages]
                scores = [[p.score for p in some.passages] for some in (one, other)]
                assert scores[0] == pytest.approx(scores[1], abs=1e-6)


STATISTICS: dict[str, tuple[Any, str, Any, str, str]] = {
    "weights of words in vectors": (engine, "is_partial", lambda _: False, "exact", "plain"),
    "weights in summaries' vectors": (
        engine,
        "is_partial",
        lambda _: False,
        "dense summaries",
        "plain",
    ),
    "weights in the hybrid": (engine, "is_partial", lambda _: False, "hybrid", "plain"),
    "rarity and length in BM25": (
        bm25,
        "Counted",
        lambda *given: Counted(*given[:3], np.ones(len(given[0]), dtype=bool), given[4]),
        "bm25",
        "plain",
    ),
    "weights of words in mmr": (
        EncoderOfReaders,
        "of",
        lambda self, readable: self._encoder,
        "bm25",
        "mmr",
    ),
}
"""Statistic -> (where it is kept to what may be read, its name, it taken away, index, refined)."""


@pytest.mark.parametrize("name", STATISTICS)
def test_each_statistic_of_the_unreadable_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    where, attribute, without_it, kind, how = STATISTICS[name]
    assert traces_of_the_unreadable([kind], [how], 6) == 0
    monkeypatch.setattr(where, attribute, without_it)
    assert traces_of_the_unreadable([kind], [how], 6) > 0


def test_a_word_of_the_unreadable_alone_is_as_one_that_nobody_wrote() -> None:
    """With the weights of all passages the first query found something by chance."""
    texts = ["rain in Rome", "sun in Lima", "a secret merger of zinc mills"]
    rules: list[tuple[str, ...]] = [("*",), ("*",), ("ann",)]
    chunks = [
        Chunk(f"d{i}#0", f"d{i}", 0, len(t), "", t, readers=r)
        for i, (t, r) in enumerate(zip(texts, rules, strict=True))
    ]
    encoder = hashing(texts)
    refitted = RefittedIndexes(
        EncoderOfReaders(encoder, lambda: texts, hashing), lambda: texts, exact_as("flat")
    )
    index = DenseIndex(
        VectorIndex.build(encoder.encode_passages(texts)), encoder, refitted=refitted
    )
    retriever = IndexRetriever(Corpus(chunks), index)
    assert retriever.search(["merger zinc", "xylophone quartz"], 2) == [[], []]
    assert retriever.search(["merger zinc"], 1, Principal("ann"))[0][0].id == "d2#0"
    selection = Corpus(chunks).select(ANYONE)
    with pytest.raises(ConfigError, match="know no passages that the principal may not read"):
        index.search_encoded(encoder.encode_queries(["rain"]), {}, 1, selection)


def test_a_neighbour_that_adjoins_without_an_unreadable_chunk_between_is_shown() -> None:
    def chunks(*readers: tuple[str, ...]) -> list[Chunk]:
        spans = [(0, 10), (4, 8), (11, 20)]  # the second lies within the first
        return [
            Chunk(f"d#{i}", "d", a, b, "", "x" * (b - a), readers=r)
            for i, ((a, b), r) in enumerate(zip(spans, readers, strict=True))
        ]

    every = chunks(("*",), (), ("*",))
    shown = with_neighbours([(0, 1.0)], 1, Corpus(every), ANYONE)
    alone = with_neighbours([(0, 1.0)], 1, Corpus([every[0], every[2]]), ANYONE)
    assert shown == alone
    assert (shown[0].start, shown[0].end) == (0, 20)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in (*ASK_OFTEN, "rewrite") else ())
        for n in ("plain", *REFINEMENTS)
    ],
)
def test_a_run_finds_what_it_would_find_if_the_unreadable_were_removed(
    name: str, tmp_path: Path
) -> None:
    settings = REFINEMENTS.get(name, {})
    if name == "plain":  # sentences are told apart by what their own document says
        settings = {"chunker": ChunkerConfig(by="semantic"), "chunk_words": 40}
    index = in_a_run(tmp_path / "all", settings)
    draw = np.random.default_rng(17)
    for who in (Principal("bob"), Principal("cy", frozenset({"staff"}))):
        kept = [d for d in world_records() if {*d.meta["readers"]} & who.identities]
        alone = in_a_run(tmp_path / who.name, settings, kept)
        queries = [*random_queries(15, draw), "fishermen romans", "zzxqj"]
        for method in ("bm25", "dense", "hybrid"):
            found, expected = (
                one.open(CPU).retriever(method, who).search(queries, 4) for one in (index, alone)
            )
            assert found == expected


def test_no_document_moves_the_cuts_of_another(tmp_path: Path) -> None:
    """Its neighbours share one word each, which other documents make common, one or the other."""
    text = "Ruby lantern. Ruby anchor. Anchor meadow."
    spans = []
    for word in ("Ruby", "Anchor"):
        others = [Document(f"o{i}", f"{word}. {word}.", meta={"readers": []}) for i in range(9)]
        chunker = ChunkerConfig(by="semantic", breaks=0.3)
        given = [Document("d", text), *others]
        index, _ = build_measured(tmp_path / word, given, chunker=chunker, chunk_words=40)
        chunks = read_chunks(index.file("passages.jsonl"))
        spans.append([(c.start, c.end) for c in chunks if c.document == "d"])
    assert spans[0] == spans[1]
    assert len(spans[0]) == 2


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
