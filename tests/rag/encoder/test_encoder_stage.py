"""Contrastive tuning: what is mined, that it learns, what it refuses; an index takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds.articles import CPU, build_measured
from worlds.small_encoders import save_encoder

from plumbrule.data.records import Document, write_records
from plumbrule.errors import ConfigError, DataError, TrainingError
from plumbrule.notebook import compose_run
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rag.config import IndexConfig, check_inputs
from rag.encoder.config import EncoderConfig
from rag.encoder.mining import MinedQuestion, mine
from rag.encoder.stage import divided, recall, run
from rag.encoder.training import train
from rag.index.encoders import make_encoder
from rag.recall import RecallQuery

NUMBER = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def name_of(number: int) -> str:
    """Return a made-up name, of letters alone, of which each is another."""
    draw = np.random.default_rng(number)
    return "".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), size=7))


def documents() -> list[Document]:
    """Return documents that say the same of different names, each with a question."""
    return [
        Document(f"d{i}", f"it is said that {name_of(i)} lived there", "", {"questions": [q]})
        for i in range(NUMBER)
        for q in [f"where is {name_of(i)}"]
    ]


def built(
    folder: Path, out: Path, records: list[Document] | None = None, **settings: Any
) -> tuple[Path, dict[str, float]]:
    """Return where an encoder artifact was built, and its metrics."""
    data, at = out / "data", out / "encoder"
    data.mkdir(parents=True)
    at.mkdir()
    write_records(documents() if records is None else records, data / "records.jsonl")
    config = EncoderConfig(name_or_path=str(folder), **settings)
    inputs = {"documents": Artifact.of(data, "data")}
    return at, dict(run(config, inputs, CPU, at, NullTracker()))


def test_hard_negatives_by_hand() -> None:
    """Answer: row 0, cosine 1. Margin .1: row 3 (.95) is too near, 1 (.8) and 2 (.6) are not."""
    vectors = np.array(
        [[1, 0], [0.8, 0.6], [0.6, 0.8], [0.95, 0.3122499], [0, 1]], dtype=np.float32
    )
    rows = {"a": [0, 4], "b": [1, 2], "c": [3]}
    asked = np.array([[1, 0], [0, 1]], dtype=np.float32)
    draw = np.random.default_rng(0)
    settings: dict[str, Any] = {"depth": 5, "margin": 0.1, "draw": draw}
    found = mine(["q", "r"], ["a", "a"], asked, vectors, rows, number=2, **settings)
    assert found.examples[0] == ("q", 0, (1, 2))
    assert found.examples[1] == ("r", 4, (2, 1))  # cosines .8 and .6 of an answer of 1
    assert found.num_drawn == 0
    found = mine(["q"], ["a"], asked[:1], vectors, rows, number=3, **settings)
    assert found.examples[0].negatives == (1, 2, 3)  # the third is drawn: only it is left
    assert found.num_drawn == 1
    found = mine(["q"], ["a"], asked[:1], vectors, rows, number=9, **settings)
    assert sorted(found.examples[0].negatives) == [1, 2, 3]  # as many as there are


def test_a_chunk_within_the_margin_is_not_drawn_while_others_are_left() -> None:
    """Rows 1 to 9 have the answer's vector; only 10 and 11 may be negatives."""
    vectors = np.array([[1, 0]] * 10 + [[0, 1], [0.1, 0.9949874]], dtype=np.float32)
    rows = {"a": [0], **{f"b{i}": [i] for i in range(1, 12)}}
    asked = np.array([[1, 0]], dtype=np.float32)
    for seed in range(5):
        settings: dict[str, Any] = {"depth": 5, "margin": 0.1, "draw": np.random.default_rng(seed)}
        found = mine(["q"], ["a"], asked, vectors, rows, number=2, **settings)
        assert sorted(found.examples[0].negatives) == [10, 11]
        assert found.num_drawn == 2


def test_drawn_negatives_are_counted_of_those_that_are_kept() -> None:
    """Document b has one chunk beside it, so each question keeps one negative, drawn at depth 1."""
    vectors = np.array([[1, 0], [0, 1], [0.1, 0.9949874], [0.2, 0.9797959]], dtype=np.float32)
    rows = {"a": [0], "b": [1, 2, 3]}
    asked = np.array([[1, 0], [0, 1]], dtype=np.float32)
    settings: dict[str, Any] = {"depth": 1, "margin": 0.1, "draw": np.random.default_rng(0)}
    found = mine(["q", "r"], ["a", "b"], asked, vectors, rows, number=3, **settings)
    assert [len(one.negatives) for one in found.examples] == [1, 1]
    assert found.num_drawn == 2


def test_what_is_held_out_depends_on_the_document_alone() -> None:
    every = [RecallQuery(f"q{i}", f"d{i % 50}") for i in range(100)]
    learned, unseen = divided(every, 0.3)
    assert {q.document for q in learned} & {q.document for q in unseen} == set()
    assert divided(every[::-1], 0.3)[1] == unseen[::-1]
    assert {q.document for q in unseen} < {q.document for q in divided(every, 0.6)[1]}
    assert divided(every, 0.0)[1] == []


def test_gains_are_paired_after_less_before() -> None:
    before, after = np.array([1.0, 2.0, np.inf, 6.0]), np.array([1.0, 1.0, 1.0, 3.0])
    numbers = recall(before, after, ["a", "b", "c", "d"])
    assert numbers["encoder/recall_at_1_gain"]["value"] == 0.5
    assert numbers["encoder/recall_at_5_before"]["value"] == 0.5
    # 1/1 + 1/2 + 0 + 1/6 before; 1 + 1 + 1 + 1/3 after
    assert numbers["encoder/mrr_before"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 6) / 4)
    assert numbers["encoder/mrr_gain"]["value"] == pytest.approx((10 / 3 - 5 / 3) / 4)


def test_it_learns_and_an_index_takes_it(folder: Path, tmp_path: Path) -> None:
    """Held-out names are found by their letters once the encoder has learned what counts."""
    settings = {"num_train_epochs": 25, "learning_rate": 5e-3, "held_out": 0.4, "batch_size": 16}
    at, metrics = built(folder, tmp_path, **settings)
    assert metrics["encoder/mrr_gain_low"] > 0.05
    assert metrics["encoder/mrr"] - metrics["encoder/mrr_before"] == pytest.approx(
        metrics["encoder/mrr_gain"]
    )
    assert {path.name for path in at.iterdir()} == {"model", "notes.json", "intervals.json"}
    encoder = Artifact.of(at, "encoder")
    index, found = build_measured(tmp_path / "index", documents(), encoder=encoder)
    about = json.loads(index.file("fingerprint.json").read_text())["encoder"]
    assert (about["kind"], about["dimensions"]) == ("sentence-transformers", 16)
    assert str(tmp_path) not in index.file("fingerprint.json").read_text()
    plain, _ = build_measured(tmp_path / "plain", documents(), encoder=str(folder))
    other = json.loads(plain.file("fingerprint.json").read_text())["encoder"]
    assert other["content"] != about["content"]
    assert found["rag/mrr_dense"] > 0.5


def test_no_epochs_change_nothing(folder: Path, tmp_path: Path) -> None:
    at, metrics = built(folder, tmp_path, num_train_epochs=0.0)
    assert metrics["encoder/mrr_gain"] == 0.0
    weights = "model.safetensors"
    assert (at / "model" / weights).read_bytes() == (folder / weights).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name_or_path": "/nowhere"}, r"encoder\.name_or_path \(=/nowhere\)"),
        ({"revision": "main"}, r"encoder\.revision \(=main\) must be null"),
        ({"batch_size": 1}, r"encoder\.batch_size \(=1 questions\)"),
        ({"held_out": 1.0}, r"encoder\.held_out \(=1\.0\)"),
        ({"temperature": 0.0}, r"encoder\.temperature \(=0\.0\)"),
        ({"num_negatives": -1}, r"encoder\.num_negatives \(=-1 chunks\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncoderConfig(**settings)


def test_documents_without_questions_are_refused(folder: Path, tmp_path: Path) -> None:
    plain = [Document(f"{i}", "some text") for i in range(3)]
    with pytest.raises(DataError, match=r"at least 2 questions to learn from .*carry 0"):
        built(folder, tmp_path, plain)


def test_a_plan_needs_an_encoder_to_start_from() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.name_or_path \(=None\) must name an encoder"):
        compose_run("run.only=encoder")


def test_an_index_takes_its_encoder_from_one_place() -> None:
    inputs = {"encoder": PlacedNode("encoder", "encoder", {})}
    check_inputs(PlacedNode("index", "index", inputs, IndexConfig()), CPU)
    config = IndexConfig()
    config.encoder = "other"
    with pytest.raises(ConfigError, match=r"rag\.encoder \(=other\) must stay hashing"):
        check_inputs(PlacedNode("index", "index", inputs, config), CPU)


def test_a_loss_that_is_not_finite_ends_the_training(folder: Path, tmp_path: Path) -> None:
    encoder: Any = make_encoder(str(folder), None, 0, [], "cpu", "float32")[1]
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(torch.nan)
    examples = [MinedQuestion(f"where is {n}", n, ()) for n in range(4)]
    texts = [f"it is said that {n} lived there" for n in range(4)]
    config = EncoderConfig(name_or_path=str(folder), batch_size=2)
    with pytest.raises(TrainingError, match=r"the loss \(=nan\) at step 1 must be finite"):
        train(encoder, examples, texts, config, "cpu", tmp_path, NullTracker())
