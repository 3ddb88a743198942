"""A world of two dozen sentences, and models of a few thousand weights that learn it."""

from __future__ import annotations

import json
from pathlib import Path

from plumbrule.data.records import Demonstration, Message, write_records
from plumbrule.lm.config import ModelConfig
from plumbrule.lm.loading import make_policy, new_model, save_policy, train_tokenizer
from plumbrule.store.artifacts import Artifact

TOWNS = ("Velm", "Tarn", "Orsk", "Lund", "Mora", "Pell")
RIVERS = ("Ash", "Bree", "Cole", "Dun")
MODEL = ModelConfig(
    context=96, vocab_size=320, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48
)
SENTENCES = [f"The town of {town} lies on the river {river}." for town in TOWNS for river in RIVERS]


def corpus(folder: Path, train: list[dict] | None = None, held_out: list[dict] | None = None):
    """Return a corpus artifact; by default the sentences, every fifth held out."""
    rows = [{"text": sentence} for sentence in SENTENCES]
    if train is None:
        train, held_out = [r for i, r in enumerate(rows) if i % 5], rows[::5]
    folder.mkdir(parents=True)
    for name, some in (("records", train), ("validation", held_out or [])):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return Artifact.of(folder, "data")


def demonstration(number: int, response: str | None = None, passages: tuple[str, ...] = ()):
    town, river = TOWNS[number % len(TOWNS)], RIVERS[number % len(RIVERS)]
    question = Message("user", f"Which river is at {town}?")
    return Demonstration(
        f"d{number}", (question,), response or f"{town} lies on the {river}.", passages
    )


def demonstrations(folder: Path, train: list[Demonstration], held_out: list[Demonstration]):
    folder.mkdir(parents=True)
    write_records(train, folder / "records.jsonl")
    write_records(held_out, folder / "validation.jsonl")
    return Artifact.of(folder, "data")


def base(folder: Path, seed: int = 0, shape: ModelConfig = MODEL) -> Artifact:
    """Return a base artifact that holds an untrained model."""
    tokenizer = train_tokenizer(SENTENCES, shape.vocab_size)
    save_policy(
        make_policy(new_model(shape, tokenizer, seed), tokenizer, shape.context), folder / "model"
    )
    return Artifact.of(folder, "base")
