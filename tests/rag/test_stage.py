"""The stage: what it writes, what it measures, what it refuses; settings and their ranges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT
from places import SHARED as SHARED_FOLDER
from worlds.articles import build, build_measured, documents

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.datasets import records
from plumbrule.data.records import Document
from plumbrule.errors import ConfigError, DataError
from plumbrule.protocols import Passage
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.fingerprint import hashed_config
from plumbrule.tracking.stage_tracker import NullTracker
from rag.config import IndexConfig
from rag.recall import RecallQuery, evenly_spaced, questions_of, rank_of, scores_of
from rag.stage import run

SHARED_DATA = SHARED_FOLDER / "data"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_writes_frozen_files_and_says_what_made_them(tmp_path: Path) -> None:
    index, metrics = build_measured(tmp_path, chunk_words=8, overlap_words=2)
    files = {str(p.relative_to(index.path)) for p in index.path.rglob("*") if p.is_file()}
    assert {"index.faiss", "passages.jsonl", "fingerprint.json", "notes.json"} <= files
    assert {"encoder/frequencies.safetensors", "bm25/vocab.index.json"} <= files
    about = json.loads(index.file("fingerprint.json").read_text())
    assert about["encoder"]["name"] == "hashing"
    assert about["encoder"]["dimensions"] == 256
    assert about["chunking"] == {"chunk_words": 8, "overlap_words": 2}
    assert about["chunks"] == metrics["rag/chunks"] == len(open_lines(index))
    assert metrics["rag/documents"] == 6
    assert json.loads(index.file("notes.json").read_text()) == []


def open_lines(index: Artifact) -> list[str]:
    return index.file("passages.jsonl").read_text().splitlines()


def test_same_documents_and_config_give_the_same_bytes(tmp_path: Path) -> None:
    """In another process with another hash seed, over a half-finished attempt, in another order."""
    first = build(tmp_path / "a")
    half = tmp_path / "b" / "index"
    (half / "bm25").mkdir(parents=True)
    (half / "bm25" / "left_over.npy").write_bytes(b"x")
    (half / "index.faiss").write_bytes(b"cut off")
    code = (
        "import sys; sys.path.insert(0, 'tests/support'); from pathlib import Path; "
        "from worlds.articles import build, documents; build(Path(sys.argv[1]), documents()[::-1])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": "."},
    )
    again = {p.relative_to(half): p.read_bytes() for p in half.rglob("*") if p.is_file()}
    once = {p.relative_to(first.path): p.read_bytes() for p in first.path.rglob("*") if p.is_file()}
    assert set(again) == set(once)
    assert [str(name) for name in once if once[name] != again[name]] == []


def test_measures_recall_where_documents_carry_questions(tmp_path: Path) -> None:
    _, metrics = build_measured(tmp_path / "with")
    for suffix in ("", "_bm25", "_dense"):
        assert metrics[f"rag/recall_at_1{suffix}"] == 1.0
        assert metrics[f"rag/mrr{suffix}"] == 1.0
    plain = [Document(d.id, d.text, d.title) for d in documents()]
    _, metrics = build_measured(tmp_path / "without", plain)
    assert set(metrics) == {"rag/documents", "rag/chunks", "rag/build_seconds"}


def test_everyone_may_read_what_has_no_rule_unless_the_config_says_who(tmp_path: Path) -> None:
    ruled = [Document("a", "One."), Document("b", "Two.", meta={"readers": ["ann"]})]
    for readers, expected in ((None, [["*"], ["ann"]]), ([], [[], ["ann"]])):
        given = {} if readers is None else {"readers": readers}
        index = build(tmp_path / str(readers), ruled, **given)
        assert [json.loads(line)["readers"] for line in open_lines(index)] == expected


def test_atlas_questions_find_their_articles(tmp_path: Path) -> None:
    world = AtlasConfig(num_known=40, num_after=20)
    _, metrics = build_measured(
        tmp_path, records("documents", world).train, dimensions=1024, chunk_words=60
    )
    assert metrics["rag/documents"] == 60
    assert metrics["rag/recall_at_1"] > 0.9
    assert metrics["rag/recall_at_5"] > 0.97


def test_the_hybrid_beats_both_of_its_parts_on_halueval(tmp_path: Path) -> None:
    """First 1,000 questions over their 999 distinct texts, each text one chunk without a title."""
    path = SHARED_DATA / "halueval" / "qa_data.first1000.json"
    if not path.is_file():
        pytest.skip(f"HaluEval's questions are not at {path}")
    questions: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        questions.setdefault(row["knowledge"], []).append(row["question"])
    texts = [
        Document(f"{i:03d}", text, meta={"questions": asked})
        for i, (text, asked) in enumerate(questions.items())
    ]
    _, metrics = build_measured(
        tmp_path, texts, dimensions=1024, chunk_words=1000, num_queries=1000
    )
    assert metrics["rag/chunks"] == 999
    assert metrics["rag/recall_at_1_bm25"] == 0.959
    assert metrics["rag/recall_at_5_bm25"] == 0.987
    assert metrics["rag/mrr_bm25"] == pytest.approx(0.9716, abs=5e-5)
    assert metrics["rag/recall_at_1_dense"] == pytest.approx(0.939, abs=2e-3)
    assert metrics["rag/recall_at_1"] == pytest.approx(0.965, abs=2e-3)


def test_recall_and_mrr_by_hand() -> None:
    # found at ranks 1, 2, 6 and never: R@1 = 1/4, R@5 = 2/4, MRR = (1 + 1/2 + 1/6 + 0)/4.
    scores = scores_of(np.array([1.0, 2.0, 6.0, np.inf]))
    assert scores == {
        "recall_at_1": 0.25,
        "recall_at_5": 0.5,
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 6) / 4),
    }
    passages = [Passage(f"{d}#0", "", 0.0, d, 0, 0) for d in ("x", "y", "y")]
    assert (rank_of("y", passages), rank_of("z", passages)) == (2, np.inf)


def test_questions_are_spread_evenly() -> None:
    questions = [RecallQuery(str(i), "d") for i in range(10)]
    assert [q.text for q in evenly_spaced(questions, 4)] == ["0", "2", "5", "7"]
    assert evenly_spaced(questions, 10) == evenly_spaced(questions, 11) == questions


def test_malformed_questions_are_refused() -> None:
    with pytest.raises(DataError, match=r"'d': meta\.questions must be a list of texts"):
        questions_of([Document("d", "Text.", meta={"questions": "one"})])
    with pytest.raises(DataError, match="list of texts"):
        questions_of([Document("d", "Text.", meta={"questions": [{"q": 1}]})])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"id": "a", "text": "One."}\n{"id": "b", "text": "  "}\n', r"row 2: .*'b' has no text"),
        ("", "at least one document"),
        ('{"id": "a", "text": "One."}\n{"id": "a", "text": "Two."}\n', "id 'a'"),
        ('{"id": "a"}\n', r"row 1: .*text"),
    ],
)
def test_bad_documents_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "records.jsonl").write_text(rows)
    inputs = {"documents": Artifact.of(tmp_path, "data")}
    with pytest.raises(DataError, match=message):
        run(IndexConfig(), inputs, RuntimeConfig(), tmp_path, NullTracker())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_words": 3}, r"rag\.chunk_words \(=3 words\)"),
        ({"chunk_words": 8, "overlap_words": 8}, r"rag\.overlap_words \(=8 words\) must be below"),
        ({"dimensions": 8}, r"rag\.dimensions \(=8\)"),
        ({"batch_size": 0}, r"rag\.batch_size \(=0 chunks\)"),
        ({"num_queries": 0}, r"rag\.num_queries"),
        ({"readers": ["ann", " "]}, r"rag\.readers \(=\['ann', ' '\]\) must be names"),
        ({"encoder": "./no/such/folder"}, r"rag\.encoder \(=\./no/such/folder\) must be a folder"),
        ({"encoder": "no/such/folder"}, r"rag\.encoder \(=no/such/folder\)"),
        ({"encoder": "owner/model"}, r"rag\.encoder_revision \(=None\) must be a 40-digit hex"),
        ({"encoder": "owner/model", "encoder_revision": "main"}, r"encoder_revision \(=main\)"),
        ({"encoder_revision": COMMIT}, r"must be null for rag\.encoder \(=hashing\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IndexConfig(**settings)


def test_a_local_encoder_counts_by_content_and_a_name_by_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    one, two = (hashed_config(IndexConfig(encoder=str(tmp_path / n))) for n in ("one", "two"))
    assert one == two
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "config.json").write_text('{"changed": 1}')
    assert hashed_config(IndexConfig(encoder=str(tmp_path / "three"))) != one
    hub = IndexConfig(encoder="owner/model", encoder_revision=COMMIT)
    assert hashed_config(hub)["encoder"] == "owner/model"


def test_an_unknown_field_of_the_filter_is_told_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(*_: object) -> None:
        raise AssertionError("it was encoded")

    monkeypatch.setattr("rag.stage.make_encoder", encoded)
    with pytest.raises(ConfigError, match=r"a field of rag\.filter \(=yaer\)"):
        build(tmp_path, documents(), filter={"yaer": 1990})


def test_recall_is_of_documents_that_runs_may_find(tmp_path: Path) -> None:
    secret = [
        Document("s", "Nobody finds this.", meta={"questions": ["Who?"], "readers": ["bob"]}),
        Document("t", "Found text here.", meta={"questions": ["Found text?"]}),
    ]
    index, metrics = build_measured(tmp_path / "one", secret)
    assert metrics["rag/recall_at_1"] == 1.0
    (note,) = json.loads(index.file("notes.json").read_text(encoding="utf-8"))
    assert note.startswith("1 of 2 questions are of documents that runs may not find")
    index, metrics = build_measured(tmp_path / "none", secret[:1])
    assert "rag/recall_at_1" not in metrics
