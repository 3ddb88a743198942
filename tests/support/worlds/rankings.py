"""A policy of a few thousand weights and a preference world that it can learn in seconds.

Answers are three words long; an answer that holds the word "good" is better than one that holds
"bad". Everything else about an answer is noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plumbrule.config import ModelConfig
from plumbrule.data.records import Message, Preference, Prompt, write_records
from plumbrule.lm.loading import make_policy, new_model, save_policy, train_tokenizer
from plumbrule.lm.policy import Policy
from plumbrule.store.artifacts import Artifact

WORDS = ["red", "green", "blue", "round", "flat", "tall", "small", "warm", "cold", "soft"]
QUESTIONS = ["what is it?", "how does it look?", "tell me more.", "say it again."]


def tiny_policy(seed: int = 0, context: int = 96) -> Policy:
    """Return an untrained policy of 2 layers and width 32 that knows the words above."""
    texts = [f" {word}" for word in (*WORDS, "good", "bad", *" ".join(QUESTIONS).split())] * 4
    tokenizer = train_tokenizer(texts, 400)
    shape = ModelConfig(
        context=context, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64
    )
    return make_policy(new_model(shape, tokenizer, seed), tokenizer, context)


def saved_policy(folder: Path, seed: int = 0, context: int = 96) -> Path:
    """Write a tiny policy as an sft artifact's folder and return the folder."""
    save_policy(tiny_policy(seed, context), folder / "model")
    return folder


def chat(text: str) -> tuple[Message, ...]:
    """Return a chat of one user turn."""
    return (Message("user", text),)


def ranking(i: int, rng: np.random.Generator) -> Preference:
    """Return a ranking of a good, a plain and a bad answer, in random order."""
    responses = []
    for word in ("good", "", "bad"):
        others = rng.choice(WORDS, 2 if word else 3, replace=False).tolist()
        others.insert(int(rng.integers(3)), word)
        responses.append(" ".join(w for w in others if w))
    order = rng.permutation(3)
    return Preference(
        id=f"p{i}",
        messages=chat(f"{QUESTIONS[i % len(QUESTIONS)]} {i}"),
        responses=tuple(responses[k] for k in order),
        ranks=tuple(int(k) + 1 for k in order),
        scores=tuple(float(2 - k) for k in order),
    )


def saved_rankings(folder: Path, num_train: int, num_held_out: int, seed: int = 0) -> Path:
    """Write rankings as a data artifact's folder and return the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [ranking(i, rng) for i in range(num_train + num_held_out)]
    write_records(rows[:num_train], folder / "records.jsonl")
    write_records(rows[num_train:], folder / "validation.jsonl")
    return folder


def saved_prompts(folder: Path, num_train: int, num_held_out: int) -> Path:
    """Write questions about a place as a prompts artifact's folder and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"answer": "red", "values": WORDS, "entity": "it", "answerable": "memory"}
    rows = [
        Prompt(f"q{i}", chat(f"{QUESTIONS[i % len(QUESTIONS)]} {i}"), meta)
        for i in range(num_train + num_held_out)
    ]
    write_records(rows[:num_train], folder / "records.jsonl")
    write_records(rows[num_train:], folder / "validation.jsonl")
    return folder


def rankings_of(
    folder: Path, num_train: int = 20, num_held_out: int = 8, seed: int = 0
) -> dict[str, Artifact]:
    """Return inputs of rm and dpo: each ranking has three answers, so three pairs."""
    rankings = saved_rankings(folder / "rankings", num_train, num_held_out, seed)
    return {
        "policy": Artifact.of(saved_policy(folder / "policy", seed), "sft"),
        "preferences": Artifact.of(rankings, "data"),
    }


def prompts_of(folder: Path, num_train: int = 10, num_held_out: int = 4) -> dict[str, Artifact]:
    """Return inputs of feedback."""
    return {
        "policy": Artifact.of(saved_policy(folder / "policy"), "sft"),
        "prompts": Artifact.of(saved_prompts(folder / "prompts", num_train, num_held_out), "data"),
    }
