"""Retrieval metrics: by hand, as ir-measures has them, and sets in BEIR's format."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from plumbrule.errors import ConfigError, DataError
from plumbrule.protocols import Passage
from rag.beir import read_beir
from rag.retrieval_metrics import MEASURES, documents_of, means, measure_rankings


def test_by_hand() -> None:
    # Relevant: a with gain 2, b with 1, c with 1. Ranked: x, b, a. At 2: one of three is found,
    # first at rank 2; DCG = 1/log2(3), best = 2/log2(2) + 1/log2(3).
    judged = {"q": {"a": 2.0, "b": 1.0, "c": 1.0, "x": 0.0}, "none": {"y": 0.0}, "lost": {"z": 1.0}}
    found = measure_rankings({"q": ["x", "b", "a"], "none": ["y"]}, judged, [1, 2])
    third = 1 / math.log2(3)
    assert found["recall@2"] == pytest.approx([1 / 3, 0, 0])
    assert found["hit@2"].tolist() == [1, 0, 0]
    assert found["mrr@2"].tolist() == [0.5, 0, 0]
    assert found["ndcg@2"] == pytest.approx([third / (2 + third), 0, 0])
    assert all(found[f"{measure}@1"].tolist() == [0, 0, 0] for measure in MEASURES)
    assert means(found)["hit@2"] == pytest.approx(1 / 3)
    assert math.isnan(means({"x": np.zeros(0)})["x"])


def test_hit_and_recall_are_kept_apart() -> None:
    found = measure_rankings({"q": ["a"]}, {"q": dict.fromkeys("abcd", 1.0)}, [10])
    assert (found["hit@10"][0], found["recall@10"][0]) == (1.0, 0.25)


def test_equal_those_of_ir_measures() -> None:
    """On random rankings, graded judgements, queries that find nothing and that have no answer."""
    if importlib.util.find_spec("ir_measures") is None:
        pytest.skip("ir-measures is not installed (it is among the dev extras)")
    import ir_measures
    from ir_measures import RR, R, Success, nDCG

    draw = np.random.default_rng(0)
    judged, ranked = {}, {}
    for number in range(200):
        documents = draw.permutation(60)[: draw.integers(1, 40)]
        judged[f"q{number}"] = {f"d{d}": float(draw.integers(0, 4)) for d in documents}
        order = draw.permutation(60)[: draw.integers(0, 50)]
        if len(order):
            ranked[f"q{number}"] = [f"d{d}" for d in order]
    cuts = [1, 5, 10, 30]
    mine = measure_rankings(ranked, judged, cuts)
    qrels = {q: {d: int(g) for d, g in gains.items()} for q, gains in judged.items()}
    run = {q: {d: float(-rank) for rank, d in enumerate(ds)} for q, ds in ranked.items()}
    names = {"recall": R, "hit": Success, "mrr": RR, "ndcg": nDCG}
    for k in cuts:
        for measure, theirs in names.items():
            told = {m.query_id: m.value for m in ir_measures.iter_calc([theirs @ k], qrels, run)}
            right = [told[query] for query in judged]
            assert mine[f"{measure}@{k}"] == pytest.approx(right, abs=1e-9), (measure, k)


def test_what_is_no_ranking_is_refused() -> None:
    with pytest.raises(DataError, match="query 'q' ranks a document twice"):
        measure_rankings({"q": ["a", "a"]}, {"q": {"a": 1.0}}, [1])
    with pytest.raises(ConfigError, match=r"a cut \(=0\)"):
        measure_rankings({"q": ["a"]}, {"q": {"a": 1.0}}, [0])
    passages = [Passage(f"{d}#{i}", "", 0.0, d, 0, 0) for i, d in enumerate("aba")]
    assert documents_of(passages) == ["a", "b"]


def beir(folder: Path, **files: str) -> Path:
    """Write a small set; a file's text may be replaced."""
    corpus = [
        {"_id": "d1", "title": "Rome", "text": "It rains.", "metadata": {"year": 1990}},
        {"_id": "d2", "title": "Oslo", "text": ""},
        {"_id": "d3", "title": "", "text": " "},
    ]
    queries = [{"_id": "q1", "text": "rain?"}, {"_id": "q2", "text": "snow?"}]
    texts = {
        "corpus": "".join(json.dumps(row) + "\n" for row in corpus),
        "queries": "".join(json.dumps(row) + "\n" for row in queries),
        "qrels": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq1\td3\t1\n",
    } | files
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(texts["corpus"], encoding="utf-8")
    (folder / "queries.jsonl").write_text(texts["queries"], encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(texts["qrels"], encoding="utf-8")
    return folder


def test_a_beir_folder_is_read(tmp_path: Path) -> None:
    found = read_beir(beir(tmp_path))
    assert [(d.id, d.title, d.text) for d in found.documents] == [
        ("d1", "Rome", "It rains."),
        ("d2", "Oslo", "Oslo"),
    ]
    assert found.documents[0].meta == {"year": 1990}
    assert (found.queries, found.num_empty) == ({"q1": "rain?"}, 1)
    assert found.judged == {"q1": {"d1": 2.0, "d2": 0.0}}
    assert [d.meta["questions"] for d in found.with_questions()] == [["rain?"], []]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"qrels": "q1\td9\t1\n"}, r"test\.tsv, row 1: 'd9' is not in corpus\.jsonl"),
        ({"qrels": "q9\td1\t1\n"}, r"'q9' is not in queries\.jsonl"),
        ({"qrels": "q1 d1 1\n"}, r"a row must be query-id, corpus-id, score with tabs"),
        ({"qrels": "q1\td1\tinf\n"}, r"with tabs between, the score finite"),
        ({"qrels": "q1\td1\tnan\n"}, r"with tabs between, the score finite"),
        ({"qrels": "q1\td1\tyes\n"}, r"a row must be"),
        ({"qrels": "q1\td1\t1\nq1\td1\t2\n"}, r"row 2: 'q1' judges 'd1' twice"),
        ({"corpus": '{"_id": "d1", "text": "a"}\n' * 2}, r"row 2: `_id` \(='d1'\) must be"),
        ({"corpus": '{"_id": 3, "text": "a"}\n'}, r"row 1: `_id` \(=3\) must be a text"),
        ({"corpus": '{"_id": "d", "text": ""}\n'}, r"at least one document with text"),
        ({"queries": '{"_id": "q1", "text": ""}\n'}, r"query 'q1' must have a text"),
    ],
)
def test_what_breaks_the_format_is_named(tmp_path: Path, files: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_beir(beir(tmp_path, **files))


def test_a_missing_file_or_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"BEIR's format.*corpus\.jsonl is missing"):
        read_beir(tmp_path)
    with pytest.raises(DataError, match=r"dev\.tsv must hold .* there are: test"):
        read_beir(beir(tmp_path), "dev")
