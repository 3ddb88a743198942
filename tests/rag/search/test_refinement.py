"""What is done with hits: fusion by rank, neighbours, MMR, rerankers, summaries, rewriting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds.articles import build, documents, opened
from worlds.small_encoders import save_classifier

from plumbrule.data.records import Document
from plumbrule.errors import ConfigError, DataError
from rag.access import ANYONE
from rag.chunks import Chunk, chunks_of
from rag.corpus import Corpus
from rag.index.bm25 import KeywordIndex
from rag.index.hash_encoder import HashingEncoder
from rag.index.protocol import NOTHING, Hits, Selection
from rag.index.ranking import fuse_ranks
from rag.search.cache import SearchCache
from rag.search.diversity import marginal_relevance
from rag.search.engine import HybridIndex, IndexRetriever, Refinement
from rag.search.neighbours import with_neighbours
from rag.search.passages_by_id import cited_passages
from rag.search.refitting import EncoderOfReaders
from rag.search.reranking import CrossEncoder, PromptedRanker, grade_of, rerank
from rag.search.rewriting import HypotheticalAnswers, RewritingIndex, SubQuestions, Wordings
from rag.search.summaries import SummaryIndex

TEXT = "One two three. Four five six. Seven eight nine. Ten eleven twelve. Last words here."


def ranked(*rows: int) -> Hits:
    return Hits(np.array(rows), np.linspace(1, 0, len(rows)), 0.0)


def test_reciprocal_rank_fusion_by_hand() -> None:
    # row 5: 1/61 + 1/62; row 3: 1/62 + 1/61, the same, and 3 < 5; row 9: 1/63.
    hits = fuse_ranks([ranked(5, 3, 9), ranked(3, 5)], 10)
    assert hits.rows.tolist() == [3, 5, 9]
    assert hits.scores == pytest.approx([1 / 61 + 1 / 62, 1 / 61 + 1 / 62, 1 / 63])
    assert fuse_ranks([ranked(5, 3, 9), NOTHING], 1).rows.tolist() == [5]
    assert fuse_ranks([NOTHING, NOTHING], 3).rows.tolist() == []
    with pytest.raises(ConfigError, match=r"fusion \(=rank\) .*nearest is ranks"):
        HybridIndex(KeywordIndex.build(["a"]), KeywordIndex.build(["a"]), "rank")


@pytest.mark.parametrize("overlap", [0, 2])
def test_neighbours_are_merged_without_repetition_and_keep_offsets(overlap: int) -> None:
    chunks = chunks_of(Document("d", TEXT), 6, overlap, ["*"])
    chunks += chunks_of(Document("e", TEXT), 6, overlap, ["*"])
    corpus = Corpus(chunks)
    middle = len(chunks) // 4
    (passage,) = with_neighbours([(middle, 0.5)], 1, corpus, ANYONE)
    first, last = chunks[middle - 1], chunks[middle + 1]
    assert (passage.start, passage.end) == (first.start, last.end)
    assert passage.text == TEXT[passage.start : passage.end]
    assert (passage.id, passage.score, passage.document) == (chunks[middle].id, 0.5, "d")
    # two hits side by side are one passage, with the better one's score and id
    merged = with_neighbours([(1, 0.9), (0, 0.7), (len(chunks) - 1, 0.8)], 0, corpus, ANYONE)
    assert [(p.id, p.score) for p in merged] == [(chunks[1].id, 0.9), (chunks[-1].id, 0.8)]
    assert merged[0].text == TEXT[chunks[0].start : chunks[1].end]


def test_a_gap_or_what_may_not_be_read_ends_the_neighbourhood() -> None:
    parts = [("a", 0, ("*",)), ("b" * 9, 2, ()), ("c", 12, ("*",)), ("d", 99, ("*",))]
    corpus = Corpus(
        [Chunk(t, "x", start, start + len(t), "", t, readers=rule) for t, start, rule in parts]
    )
    for row, text in ((0, "a"), (2, "c"), (3, "d")):
        (passage,) = with_neighbours([(row, 1.0)], 3, corpus, ANYONE)
        assert passage.text == text
    assert with_neighbours([(1, 1.0)], 3, corpus, ANYONE) == []


def test_marginal_relevance_by_hand() -> None:
    # a and b are the same, c is at right angles. Weight 0.5: a first (0.45 > 0.4 > 0.2); then b has
    # 0.4 - 0.5 = -0.1 and c 0.2 - 0 = 0.2, so c comes before b.
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    relevance = np.array([0.9, 0.8, 0.4])
    assert marginal_relevance(relevance, vectors, 3, 0.5) == [0, 2, 1]
    assert marginal_relevance(relevance, vectors, 2, 0.5) == [0, 2]
    assert marginal_relevance(relevance, vectors, 3, 1.0) == [0, 1, 2]
    assert marginal_relevance(relevance[:0], vectors[:0], 3, 0.5) == []
    with pytest.raises(ConfigError, match=r"mmr \(=1\.5\)"):
        marginal_relevance(relevance, vectors, 3, 1.5)
    with pytest.raises(ConfigError, match=r"refinement\.mmr \(=0\.5\) must have an encoder"):
        Refinement(mmr=0.5)


def small() -> tuple[Corpus, KeywordIndex]:
    texts = ["rain in Rome", "rain in Rome again", "rain in Oslo", "sun in Lima"]
    chunks = [Chunk(f"{i}", f"d{i}", 0, len(t), "", t, readers=("*",)) for i, t in enumerate(texts)]
    return Corpus(chunks), KeywordIndex.build(texts)


def test_the_engine_refines_in_order() -> None:
    corpus, keywords = small()
    texts = [chunk.text for chunk in corpus.chunks]
    encoders = EncoderOfReaders(HashingEncoder.fit(texts, 256), lambda: texts, None)

    class Last:
        def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
            return np.array([float(text == "rain in Oslo") for _, text in pairs])

    plain = IndexRetriever(corpus, keywords).search(["rain Rome"], 1)
    assert [p.id for p in plain[0]] == ["0"]
    reranked = IndexRetriever(corpus, keywords, refinement=Refinement(Last(), depth=3))
    assert [(p.id, p.score) for p in reranked.search(["rain Rome"], 2)[0]] == [("2", 1), ("0", 0)]
    varied = IndexRetriever(corpus, keywords, refinement=Refinement(mmr=0.3, encoders=encoders))
    assert [p.id for p in varied.search(["rain Rome"], 2)[0]] == ["0", "2"]


def test_a_reranker_that_loses_scores_is_refused() -> None:
    class Short:
        def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
            return np.zeros(len(pairs) - 1)

    with pytest.raises(ConfigError, match=r"\(=Short\) must give one score a pair \(=2\)"):
        rerank("q", ranked(0, 1), 2, Short(), small()[0], ANYONE)


def test_a_language_model_grades_passages() -> None:
    asked: list[str] = []

    def answer(prompts: Sequence[str]) -> list[str]:
        asked.extend(prompts)
        return ["3" if "Oslo" in prompt else "I say 1." for prompt in prompts]

    hits = rerank("where?", ranked(0, 2, 3), 3, PromptedRanker(answer), small()[0], ANYONE)
    assert (hits.rows.tolist(), hits.scores.tolist()) == ([2, 0, 3], [3.0, 1.0, 1.0])
    assert "where?" in asked[0]
    assert [grade_of(text) for text in ("2", "none", "7", "", "0.")] == [2, -1, -1, -1, 0]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"))


def test_a_cross_encoder_reads_query_and_passage_together(classifier: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pairs = [("rain in Rome", "sun in Lima"), ("rain", "rain in Oslo"), ("sun", "Lima")]
    scores = CrossEncoder(classifier, batch_size=2).score(pairs)
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    with torch.no_grad():
        right = [float(model(**tokenizer(*pair, return_tensors="pt")).logits) for pair in pairs]
    assert scores == pytest.approx(right, abs=1e-5)


def test_a_folder_without_a_sound_model_is_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rag\.refine\.rerank_model .*it is no folder"):
        CrossEncoder(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"rag\.refine\.rerank_model \(="):
        CrossEncoder(tmp_path)
    for path in classifier.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"rag\.refine\.rerank_model \(="):
        CrossEncoder(tmp_path)


def test_summaries_are_searched_and_their_text_is_returned() -> None:
    corpus, _ = small()
    summaries = KeywordIndex.build(["weather of Italy", "weather elsewhere"])
    index = SummaryIndex(summaries, [np.array([0, 1]), np.array([2, 3])])
    (found,) = IndexRetriever(corpus, index).search(["Italy"], 5)
    assert [p.text for p in found] == ["rain in Rome", "rain in Rome again"]
    passing = Selection(np.ones(4, dtype=bool), np.array([False, True, True, False]))
    (hits,) = index.search(["weather"], 5, passing)
    assert hits.rows.tolist() == [1, 2]
    (hits,) = index.search(["weather"], 5, Selection(np.array([True, False, True, True])))
    assert hits.rows.tolist() == [2, 3]


def test_queries_are_written_anew_and_what_they_find_is_fused() -> None:
    _, keywords = small()
    said = "1. Oslo weather\n\n2) rain\n- rain\n"
    assert Wordings(lambda p: [said] * len(p), 2).rewrite(["q"]) == [["q", "Oslo weather", "rain"]]
    assert SubQuestions(lambda p: [""] * len(p)).rewrite(["q", "r"]) == [["q"], ["r"]]
    with pytest.raises(ConfigError, match=r"rewriting\.number \(=0 wordings\)"):
        Wordings(lambda p: [""], 0)
    made_up = HypotheticalAnswers(lambda p: ["sun in Lima" for _ in p])
    found = RewritingIndex(keywords, made_up).search(["dry places", "Rome"], 2)
    assert found[0].rows.tolist() == [3]
    assert found[1].rows.tolist() == [0, 3]  # both first of a ranking: by row


def test_cited_passages_are_found_by_their_ids() -> None:
    corpus, _ = small()
    assert [p.text for p in cited_passages(["3", "0"], corpus, ANYONE)] == [
        "sun in Lima",
        "rain in Rome",
    ]
    with pytest.raises(DataError, match="no passage has the id '9'"):
        cited_passages(["9"], corpus, ANYONE)


def test_the_cache_keeps_the_newest_and_blank_queries_find_nothing() -> None:
    corpus, keywords = small()
    kept: SearchCache = SearchCache(2)
    searched: list[str] = []

    class Counted:
        def search(self, queries, depth, selection=None):
            searched.extend(queries)
            return keywords.search(queries, depth, selection)

    retriever = IndexRetriever(corpus, Counted(), cache=kept)
    first = retriever.search(["rain", "sun", " ", ""], 2)
    assert first[2:] == [[], []]
    assert retriever.search(["rain", "sun"], 2) == first[:2]
    assert searched == ["rain", "sun"]
    retriever.search(["Rome"], 2)
    retriever.search(["rain"], 2)  # which made room for Rome
    assert searched == ["rain", "sun", "Rome", "rain"]


def test_the_cache_tells_filters_apart_that_look_alike() -> None:
    corpus, keywords = small()
    chunks = [chunk._replace(metadata={"n": i == 0 or i}) for i, chunk in enumerate(corpus.chunks)]
    retriever = IndexRetriever(Corpus(chunks), keywords, cache=SearchCache())
    both = [{"n": True}, {"n": 2}]
    for wanted, expected in (
        ({"n": 1}, ["1"]),
        ({"n": True}, ["0"]),
        ({"any": both}, ["0", "2"]),
        ({"all": both}, []),
        ({"n": {"exists": True}}, ["0", "1", "2"]),
    ):
        (found,) = retriever.search(["rain"], 4, filter=wanted)
        assert sorted(passage.id for passage in found) == expected


def test_headers_stand_before_what_is_indexed_alone(tmp_path: Path) -> None:
    texts = [
        Document("a", "It rains a lot.", "Rome", {"section": "Weather", "context": "About Italy."}),
        Document("b", "It rains a lot.", "Oslo", {"context": "About Norway."}),
    ]
    index = build(tmp_path / "with", texts, header=["title", "section", "context"])
    for query, document in (("Norway", "b"), ("weather", "a"), ("Oslo", "b")):
        (found,) = opened(index, "bm25").search([query], 2)
        assert [p.document for p in found] == [document]
        assert found[0].text == "It rains a lot."
    with pytest.raises(ConfigError, match=r"a field of rag\.header \(=contxt\) .*is context"):
        build(tmp_path / "wrong", texts, header=["contxt"])


def test_the_title_is_the_header_that_has_always_been(tmp_path: Path) -> None:
    one, other = build(tmp_path / "a", documents()), build(tmp_path / "b", header=["title"])
    for name in ("index.faiss", "passages.jsonl", "bm25/vocab.index.json"):
        assert one.file(name).read_bytes() == other.file(name).read_bytes()


def test_a_cache_that_two_retrievers_share_tells_them_apart() -> None:
    kept: SearchCache[Any] = SearchCache()
    found = []
    for name in ("a", "b"):
        chunks = [Chunk(f"{name}#0", name, 0, 4, "", f"rome {name}", readers=("*",))]
        keywords = KeywordIndex.build([one.searched for one in chunks])
        retriever = IndexRetriever(Corpus(chunks), keywords, cache=kept)
        found += [retriever.search(["rome"], 5)[0][0].document for _ in range(2)]
    assert found == ["a", "a", "b", "b"]
