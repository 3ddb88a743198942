"""BM25: the formula, one tokenisation for both sides, files without pickle, measured recall."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import bm25s
import numpy as np
import pytest
from places import ROOT
from places import SHARED as SHARED_FOLDER

from plumbrule.errors import ArtifactError
from rag.index.bm25 import KeywordIndex
from rag.keyword.words import words_of

HALUEVAL = SHARED_FOLDER / "data" / "halueval"

TEXTS = [
    "The founders were founding a company of running water.",
    "A magazine about horses and horses again.",
    "Nothing of that kind is here, but a horse runs.",
]


def test_scores_follow_lucene_s_bm25() -> None:
    """Sum over the query's terms of idf * tf / (tf + k1 (1 - b + b l / L)).

    idf = ln(1 + (N - df + 1/2) / (df + 1/2)); l is the passage's length in terms and L the mean.
    """
    k1, b = 1.5, 0.75
    passages = [words_of([text])[0] for text in TEXTS]
    mean_length = sum(map(len, passages)) / len(passages)
    (query,) = words_of(["running horses"])
    assert query == ["run", "hors"]
    expected = []
    for passage in passages:
        score = 0.0
        for term in query:
            df = sum(term in other for other in passages)
            tf = passage.count(term)
            idf = math.log(1 + (len(passages) - df + 0.5) / (df + 0.5))
            score += idf * tf / (tf + k1 * (1 - b + b * len(passage) / mean_length))
        expected.append(score)
    (hits,) = KeywordIndex.build(TEXTS).search(["running horses"], 3)
    order = sorted(range(3), key=lambda row: -expected[row])
    assert hits.rows.tolist() == order
    assert hits.scores.tolist() == pytest.approx([expected[row] for row in order], rel=1e-5)


def test_queries_are_stemmed_and_stopped_like_passages() -> None:
    index = KeywordIndex.build(TEXTS)
    # Neither word stands in any text as it is asked; only their stems meet.
    (hits,) = index.search(["the founded companies"], 3)
    assert hits.rows.tolist() == [0]
    assert words_of(["the of and"]) == [[]]


def test_what_shares_no_word_is_not_found() -> None:
    index = KeywordIndex.build(TEXTS)
    for query in ("", "the", "zebra"):
        (hits,) = index.search([query], 3)
        assert len(hits.rows) == 0
        assert hits.floor == 0.0


def test_floor_is_zero_unless_the_pool_is_full() -> None:
    index = KeywordIndex.build(TEXTS)
    (all_of_them,) = index.search(["horses"], 3)
    assert len(all_of_them.rows) == 2
    assert all_of_them.floor == 0.0
    (full,) = index.search(["horses"], 2)
    assert full.floor == full.scores[-1] > 0


def test_ties_are_broken_by_row_also_at_the_cut() -> None:
    index = KeywordIndex.build(["same words here"] * 7 + ["other"])
    (hits,) = index.search(["words"], 3)
    assert hits.rows.tolist() == [0, 1, 2]


def test_a_corpus_of_stop_words_can_be_indexed() -> None:
    (hits,) = KeywordIndex.build(["the", "of and"]).search(["the rain"], 2)
    assert len(hits.rows) == 0


def test_files_hold_no_pickle_and_give_the_same_scores(tmp_path: Path) -> None:
    index = KeywordIndex.build(TEXTS)
    index.save(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert all(name.endswith((".npy", ".json")) for name in names)
    for path in tmp_path.glob("*.npy"):
        np.load(path, allow_pickle=False)
    before, after = (
        index.search(["horse"], 3),
        KeywordIndex.load(tmp_path, lambda: TEXTS).search(["horse"], 3),
    )
    assert before[0].rows.tolist() == after[0].rows.tolist()
    assert before[0].scores.tolist() == after[0].scores.tolist()


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    KeywordIndex.build(TEXTS).save(tmp_path)
    path = tmp_path / "data.csc.index.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="build the index again"):
        KeywordIndex.load(tmp_path, lambda: TEXTS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    KeywordIndex.build(TEXTS).save(tmp_path)
    (tmp_path / "vocab.index.json").unlink()
    with pytest.raises(ArtifactError, match=r"vocab\.index\.json"):
        KeywordIndex.load(tmp_path, lambda: TEXTS)


def test_files_do_not_depend_on_python_s_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rag.index.bm25 import KeywordIndex; "
        "KeywordIndex.build(['red green blue', 'blue cat dog', 'dog fish']).save(Path(sys.argv[1]))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name


def test_recall_on_halueval_questions() -> None:
    """First 1,000 rows: query = question, gold = its knowledge, among the 999 distinct ones.

    Without stemming the queries R@1 would fall to .874.
    """
    path = HALUEVAL / "qa_data.first1000.json"
    if not path.is_file():
        pytest.skip(f"HaluEval's questions are not at {path}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = list(dict.fromkeys(row["knowledge"] for row in rows))
    gold = [texts.index(row["knowledge"]) for row in rows]
    found = KeywordIndex.build(texts).search([row["question"] for row in rows], 10)
    ranks = np.array(
        [
            hits.rows.tolist().index(row) + 1 if row in hits.rows else math.inf
            for hits, row in zip(found, gold, strict=True)
        ]
    )
    assert [float(np.mean(ranks <= k)) for k in (1, 5, 10)] == [0.959, 0.987, 0.990]
    assert float(np.mean(1 / ranks)) == pytest.approx(0.9716, abs=5e-5)


def test_the_same_recall_is_lost_without_stemming_queries() -> None:
    """The trap that `words_of` avoids, shown with bm25s itself: unstemmed queries find less."""
    (stemmed,) = words_of(["founding"])
    raw = bm25s.tokenize(["founding"], stopwords="english", return_ids=False, show_progress=False)
    bm25 = bm25s.BM25()
    bm25.index(words_of(TEXTS), show_progress=False)
    assert stemmed != raw[0]
    assert bm25.get_scores(stemmed).max() > 0
    assert bm25.get_scores(raw[0]).max() == 0
    assert KeywordIndex.build(TEXTS).search(["founding"], 1)[0].scores.max() > 0
