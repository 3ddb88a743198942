"""Opened indexes: every method finds, batches don't matter, what doesn't fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds.articles import CPU, PEOPLE, TOWNS, TRADES, build, documents, opened

from plumbrule.data.records import Document
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store.artifacts import Artifact
from rag.access import Principal
from rag.config import IndexConfig
from rag.index.hash_encoder import HashingEncoder
from rag.retriever import METHODS
from rag.search import engine as module

QUERIES = [
    *(f"Where was {name} born?" for name in PEOPLE),
    *(f"Who is a {trade}?" for trade in TRADES),
    *TOWNS,
    "zebra",
    "",
]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Artifact:
    return build(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("method", METHODS)
def test_finds_the_passage_and_says_where_it_stands(index: Artifact, method: str) -> None:
    by_id = {document.id: document for document in documents()}
    found = opened(index, method).search([f"Where was {name} born?" for name in PEOPLE], 2)
    for i, passages in enumerate(found):
        first = passages[0]
        assert first.document == f"doc-{i}"
        assert TOWNS[i] in first.text
        assert by_id[first.document].text[first.start : first.end] == first.text
        assert [p.score for p in passages] == sorted((p.score for p in passages), reverse=True)


@pytest.mark.parametrize("method", METHODS)
def test_titles_help_passages_that_do_not_name_their_subject(index: Artifact, method: str) -> None:
    (passages,) = opened(index, method).search(["Profession chosen later by Di Thorne"], 1)
    assert "dentist" in passages[0].text
    assert "Thorne" not in passages[0].text


@pytest.mark.parametrize("method", METHODS)
def test_batches_repeats_and_order_do_not_matter(monkeypatch, index: Artifact, method: str) -> None:
    found = opened(index, method)
    alone = {query: found.search([query], 3)[0] for query in QUERIES}
    shuffled = [*QUERIES[::-1], *QUERIES, *QUERIES[:3]]
    assert found.search(shuffled, 3) == [alone[query] for query in shuffled]
    monkeypatch.setattr(module, "BLOCK", 4)
    assert found.search(shuffled, 3) == [alone[query] for query in shuffled]


@pytest.mark.parametrize("method", METHODS)
def test_ties_stand_in_the_order_of_passages(tmp_path: Path, method: str) -> None:
    same = [Document(name, "The very same words.") for name in ("c", "a", "d", "b")]
    found = opened(build(tmp_path, same), method)
    (passages,) = found.search(["same words"], 3)
    assert [passage.id for passage in passages] == ["a#0", "b#0", "c#0"]


@pytest.mark.parametrize("method", METHODS)
def test_a_query_that_shares_nothing_finds_nothing(index: Artifact, method: str) -> None:
    assert opened(index, method).search(["", "zzxqj"], 2) == [[], []]
    assert opened(index, method).search([], 2) == []


def test_hybrid_is_the_convex_sum_of_both(index: Artifact) -> None:
    """With pools larger than the corpus: min-max over all 12 chunks, half of each."""
    query, every = "Where was Bo Marsh born?", 100
    raw = {
        method: {p.id: p.score for p in opened(index, method).search([query], every)[0]}
        for method in METHODS
    }

    def scale(scores: dict[str, float], low: float) -> dict[str, float]:
        high = max(scores.values())
        return {name: (score - low) / (high - low) for name, score in scores.items()}

    dense = scale(raw["dense"], min(raw["dense"].values()))
    keyword = scale(raw["bm25"], 0.0)  # some chunk shares no word and scores 0
    assert len(raw["bm25"]) < len(raw["dense"]) == 12
    for name, score in raw["hybrid"].items():
        assert score == pytest.approx(0.5 * dense[name] + 0.5 * keyword.get(name, 0.0), abs=1e-6)


def test_k_and_method_are_checked(index: Artifact) -> None:
    with pytest.raises(ConfigError, match=r"retrieval\.num_passages \(=0 passages\)"):
        opened(index, "bm25").search(["x"], 0)
    with pytest.raises(ConfigError, match=r"retrieval\.method \(=best\)"):
        opened(index, "best")


def test_another_encoder_is_refused_and_both_sizes_named(tmp_path: Path) -> None:
    index = build(tmp_path, dimensions=64)
    HashingEncoder.fit(["another"], 32).save(index.path / "encoder")
    with pytest.raises(ArtifactError, match=r"=64 dimensions.*hashing gives 32 dimensions"):
        opened(index, "dense")
    assert opened(index, "bm25").search(["Oslo"], 1)[0][0].document == "doc-3"


def test_changed_passages_are_refused(tmp_path: Path) -> None:
    index = build(tmp_path)
    path = index.path / "passages.jsonl"
    path.write_text(path.read_text().replace("Rome", "Bonn"))
    with pytest.raises(ArtifactError, match=r"passages\.jsonl is not what"):
        opened(index, "bm25")


@pytest.mark.parametrize("name", ["index.faiss", "bm25", "encoder", "passages.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    index = build(tmp_path)
    (index.path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=name):
        opened(index, "hybrid")


@pytest.mark.parametrize("name", ["index.faiss", "encoder/frequencies.safetensors"])
def test_a_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    index = build(tmp_path)
    path = index.path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="build the index again"):
        opened(index, "dense")


def test_an_index_of_other_passages_is_refused(tmp_path: Path) -> None:
    index = build(tmp_path)
    other = build(tmp_path / "other", documents()[:2])
    for name in ("index.faiss", "bm25"):
        (index.path / name).rename(tmp_path / f"old-{name}")
        (other.path / name).rename(index.path / name)
    for method in METHODS:
        with pytest.raises(ArtifactError, match=r"one per passage \(=12\)"):
            opened(index, method)


def test_a_damaged_fingerprint_is_named(tmp_path: Path) -> None:
    index = build(tmp_path)
    for text in ("{", "[]", json.dumps({"encoder": {}})):
        (index.path / "fingerprint.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"fingerprint\.json is damaged"):
            opened(index, "bm25")


def test_runs_search_for_whom_and_what_the_index_was_built_with(tmp_path: Path) -> None:
    texts = [
        Document(
            f"{i}", f"Notes of a baker, part {i}.", meta={"year": 1990 + i, "readers": readers}
        )
        for i, readers in enumerate((["*"], ["ann"], ["staff"], [], ["*"]))
    ]
    queries = ["baker"]
    for settings, expected in (
        ({}, "04"),
        ({"principal": ["ann"]}, "014"),
        ({"principal": ["eve", "staff"]}, "024"),
        ({"principal": ["ann", "staff"], "filter": {"year": {"min": 1991}}}, "124"),
        ({"filter": {"not": {"year": 1990}}}, "4"),
    ):
        index = build(tmp_path / expected, texts, **settings)
        for method in METHODS:
            (found,) = opened(index, method).search(queries, 5)
            assert sorted(passage.document for passage in found) == list(expected)
    retriever = index.open(CPU).retriever("dense", Principal("ann"), {"year": 1991})
    assert [p.document for p in retriever.search(queries, 5)[0]] == ["1"]
    with pytest.raises(ConfigError, match=r"a field of rag\.filter \(=yaer\) .*nearest is year"):
        index.open(CPU).retriever("bm25", filter={"yaer": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"principal": ["*"]}, r"principal \(=\*\) must name one"),
        ({"principal": ["ann", " "]}, r"rag\.principal \(=\['ann', ' '\]\) must be a name"),
        ({"filter": {"year": {"mim": 3}}}, r"a condition of rag\.filter\.year \(=mim\)"),
    ],
)
def test_principals_and_filters_are_checked_before_anything_is_read(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        IndexConfig(**settings)
