"""An index of a folder in BEIR's format: its corpus is indexed, its judgements measure it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds.articles import PEOPLE, build_measured, documents

from plumbrule.errors import ConfigError, DataError
from plumbrule.store.fingerprint import forget, hashed_config
from rag.beir import RetrievalSet
from rag.config import IndexConfig


def beir(folder: Path) -> Path:
    """Write the small world as a set: each person's query is answered by their document.

    The last query is answered by a document without text, which can't be found.
    """
    folder.mkdir()
    rows = [{"_id": d.id, "title": d.title, "text": d.text} for d in documents()]
    rows.append({"_id": "empty", "title": "", "text": ""})
    asked = [{"_id": f"q{i}", "text": f"Where was {name} born?"} for i, name in enumerate(PEOPLE)]
    asked.append({"_id": "none", "text": "Who?"})
    for name, lines in (("corpus", rows), ("queries", asked)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "qrels").mkdir()
    judged = [f"q{i}\tdoc-{i}\t2" for i in range(6)] + ["none\tempty\t1"]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged))
    return folder


def test_its_judgements_measure_the_index_that_is_made_of_it(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set")
    index, metrics = build_measured(tmp_path, [], beir=str(folder))
    assert metrics["rag/documents"] == 6
    for suffix in ("", "_bm25", "_dense"):
        # six of seven queries have their document first; the seventh's can't be found
        assert metrics[f"rag/ndcg_at_10{suffix}"] == pytest.approx(6 / 7)
        assert metrics[f"rag/recall_at_100{suffix}"] == pytest.approx(6 / 7)
    assert metrics["rag/recall_at_1"] == 1.0
    assert str(folder) not in index.file("fingerprint.json").read_text()


def test_judgements_of_what_runs_may_not_find_are_not_counted(tmp_path: Path) -> None:
    """Of six documents that answer a query, a filter leaves two; the seventh query has none."""
    wanted = {"document": ["doc-0", "doc-1"]}
    settings = {"beir": str(beir(tmp_path / "set")), "filter": wanted}
    index, metrics = build_measured(tmp_path, [], **settings)
    for suffix in ("", "_bm25", "_dense"):
        assert metrics[f"rag/ndcg_at_10{suffix}"] == pytest.approx(2 / 3)
        assert metrics[f"rag/recall_at_100{suffix}"] == pytest.approx(2 / 3)
    questions, judgements = json.loads(index.file("notes.json").read_text())
    assert questions.startswith("4 of 6 questions are of documents that runs may not find")
    assert judgements.startswith("4 of 6 judgements are of documents that runs may not find")
    assert "4 of 7 judged queries are left out" in judgements


def test_a_query_keeps_the_judgements_of_what_may_be_found() -> None:
    judged = {"q": {"a": 2.0, "b": 1.0}, "r": {"b": 1.0, "c": 0.0}, "s": {"c": 0.0}}
    every = RetrievalSet([], {"q": "q?", "r": "r?", "s": "s?"}, judged, 0)
    left = every.among({"a", "c"})
    assert left.judged == {"q": {"a": 2.0}, "s": {"c": 0.0}}  # r has lost its only answer
    assert left.queries == {"q": "q?", "s": "s?"}


def test_the_folders_content_is_hashed_and_not_its_path(tmp_path: Path) -> None:
    one, other = beir(tmp_path / "one"), beir(tmp_path / "other")
    first = hashed_config(IndexConfig(beir=str(one)))
    assert hashed_config(IndexConfig(beir=str(other))) == first != hashed_config(IndexConfig())
    with (other / "queries.jsonl").open("a") as file:
        file.write('{"_id": "more", "text": "What?"}\n')
    forget()  # what was hashed is remembered within a command
    assert hashed_config(IndexConfig(beir=str(other))) != first


def test_a_folder_or_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rag\.beir \(=/nowhere\) must be a folder"):
        IndexConfig(beir="/nowhere")
    with pytest.raises(DataError, match=r"dev\.tsv must hold the judgements .*test"):
        build_measured(tmp_path, [], beir=str(beir(tmp_path / "set")), beir_split="dev")
