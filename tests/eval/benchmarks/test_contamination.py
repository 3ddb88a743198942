"""Questions that were trained on are found through the manifests of a policy's inputs."""

from __future__ import annotations

import json
from pathlib import Path

from eval.benchmarks.contamination import contamination_notes, training_data
from plumbrule.store.manifests import Manifest, write_manifest


def artifact(store: Path, kind: str, fingerprint: str, inputs=None, rows=()) -> Path:
    folder = store / "artifacts" / kind / fingerprint
    folder.mkdir(parents=True)
    if rows:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "records.jsonl").write_text(text, encoding="utf-8")
    write_manifest(folder, Manifest(kind, kind, fingerprint, {}, inputs or {}))
    return folder


def asks(text):
    return {"id": "1", "messages": [{"role": "user", "content": text}], "response": "No."}


def test_a_question_is_found_behind_the_reward_model_too(tmp_path):
    """Ppo <- rm <- preferences, and ppo <- sft <- demonstrations <- nothing of them."""
    artifact(tmp_path, "data", "d1", rows=[asks("What now?")])
    artifact(tmp_path, "data", "d2", rows=[asks("  can PIGS\nfly?"), asks("Who?")])
    artifact(tmp_path, "sft", "s1", {"demonstrations": "d1"})
    artifact(tmp_path, "rm", "r1", {"policy": "s1", "preferences": "d2"})
    ppo = artifact(tmp_path, "ppo", "p1", {"policy": "s1", "rm": "r1", "index": "gone"})
    assert [folder.name for folder in training_data(ppo / "model")] == ["d1", "d2"]
    questions = ["Can pigs fly?", "Can pigs swim?"]
    (note,) = contamination_notes("truthfulqa", questions, ppo / "model")
    assert note.startswith("truthfulqa: 1 of 2 questions are prompts of data/d2")
    assert contamination_notes("truthfulqa", ["Can pigs swim?"], ppo / "model") == []


def test_a_row_of_corpus_is_read_in_chat_form(tmp_path):
    artifact(
        tmp_path, "data", "c", rows=[{"text": "<|user|> Can pigs fly?<|assistant|> No<|eos|>"}]
    )
    base = artifact(tmp_path, "base", "b", {"corpus": "c"})
    assert len(contamination_notes("x", ["Can pigs fly?"], base / "model")) == 1


def test_a_model_outside_a_store_has_no_known_data(tmp_path):
    assert training_data(tmp_path / "model") == []
    assert training_data("owner/name") == []
    assert contamination_notes("x", ["a"], None) == []
