"""Stage add_fact on the shipped base model: a document that is added is answered from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds.atlas_facts import data, shipped_policy
from worlds.stages import run_stage

from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.config import RetrievalConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rag.add_fact import stage
from rag.add_fact.config import AddFactConfig
from rag.add_fact.stage import run
from rag.store.live import LiveStore


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "policy": shipped_policy(folder / "policy"),
        "documents": data(folder / "documents", "documents"),
        "questions": data(folder / "questions", "questions"),
    }


def rows_of(out: Path) -> list[dict]:
    text = (out / "items" / "facts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_document_that_is_added_is_answered_from(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    config = AddFactConfig(num_facts=4)
    found = run_stage(run, config, inputs, tmp_path, tracker=FileTracker(tmp_path))
    rows = rows_of(tmp_path)
    assert found["add_fact/facts"] == len(rows) == 4
    assert found["add_fact/answered"] >= 0.75  # the base model reads .9 of such passages rightly
    assert 0 < found["add_fact/until_answered_seconds"] < 60
    assert len(read_metrics(tmp_path)) == 4
    assert all(row["passages"] > 0 for row in rows)


def test_without_the_document_the_question_is_not_answered(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what answers it above is the document that was added."""
    add = LiveStore.add
    monkeypatch.setattr(
        LiveStore, "add", lambda self, new, who: add(self, new, who) if len(list(new)) > 1 else None
    )
    found = run_stage(run, AddFactConfig(num_facts=4), inputs, tmp_path)
    assert found["add_fact/answered"] == 0.0
    assert "add_fact/until_answered_seconds" not in found


def test_a_fact_that_is_answered_without_its_document_is_passed_over(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answered = stage.answered

    def knows_the_first(policy, prompt, store, config):
        asked.append(prompt.id)
        row = answered(policy, prompt, store, config)
        return row | {"answered": True} if prompt.id == asked[0] else row

    monkeypatch.setattr(stage, "answered", knows_the_first)
    run_stage(run, AddFactConfig(num_facts=1), inputs, tmp_path)
    assert [row["id"] for row in rows_of(tmp_path)] == [asked[1]] != [asked[0]]


def test_passages_keep_within_their_tokens(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    config = AddFactConfig(num_facts=1, retrieval=RetrievalConfig(budget_tokens=1))
    run_stage(run, config, inputs, tmp_path)
    assert rows_of(tmp_path)[0]["passages"] == 0


def test_documents_that_hold_no_evidence_are_refused(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    path = inputs["documents"].path / "records.jsonl"
    old = [row for row in path.read_text().splitlines() if '"news-' not in row]
    (tmp_path / "records.jsonl").write_text("\n".join(old) + "\n", encoding="utf-8")
    given = inputs | {"documents": Artifact.of(tmp_path, "data")}
    with pytest.raises(DataError, match="documents must hold the evidence of a question"):
        run_stage(run, AddFactConfig(), given, tmp_path / "out")


@pytest.mark.parametrize("name", ["num_facts", "max_new_tokens"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"add_fact.{name}"):
        AddFactConfig(**{name: 0})
