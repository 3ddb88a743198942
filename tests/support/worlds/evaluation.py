"""A policy of random weights, a handful of records and simple partners, for the tests here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from eval.config import BoldConfig, EvalConfig
from plumbrule.config import ModelConfig, RetrievalConfig, SamplingConfig
from plumbrule.data.records import BenchmarkItem, Message, Prompt, write_records
from plumbrule.lm.loading import Policy, make_policy, new_model, save_policy, train_tokenizer
from plumbrule.protocols import Passage
from plumbrule.store.artifacts import Artifact

CITIES = ("Arlen", "Bosk", "Corvane", "Dunmere")
WORDS = [
    "Yes No Question: Answer: Reply: Is it false? I do not know. was born in won praise",
    "Where was she born? Thank you for asking. lives in the town of " + " ".join(CITIES),
]
SMALL = ModelConfig(
    context=96, vocab_size=420, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32
)


def small_policy(seed: int = 0) -> Policy:
    tokenizer = train_tokenizer(WORDS * 20, SMALL.vocab_size)
    return make_policy(new_model(SMALL, tokenizer, seed), tokenizer, SMALL.context)


def small_config(**changes: Any) -> EvalConfig:
    settings: dict[str, Any] = {
        "sampling": SamplingConfig(max_new_tokens=6, batch_size=4),
        "bold": BoldConfig(max_new_tokens=4),
        "retrieval": RetrievalConfig(share=1.0, num_passages=1, budget_tokens=40),
        "num_resamples": 100,
        "num_samples": 2,
    }
    return EvalConfig(**(settings | changes))


def meta(entity: str, answer: str, answerable: str) -> dict[str, Any]:
    return {
        "entity": entity,
        "answer": answer,
        "answerable": answerable,
        "values": list(CITIES),
        "aliases": [],
    }


def prompts() -> list[Prompt]:
    asked = [("Ada", "Arlen", "memory"), ("Bea", "Bosk", "documents"), ("Cid", "", "nothing")]
    known = [
        Prompt(f"p{i}", (Message("user", f"Where was {name} born?"),), meta(name, city, where))
        for i, (name, city, where) in enumerate(asked)
    ]
    return [*known, Prompt("p3", (Message("user", "Say it."),))]


def questions() -> list[BenchmarkItem]:
    return [
        BenchmarkItem(
            f"q{i}",
            "question",
            {"question": p.messages[-1].content},
            str(p.meta["entity"]),
            p.meta,
        )
        for i, p in enumerate(prompts()[:3])
    ]


def halueval() -> list[BenchmarkItem]:
    both = {"right": "Arlen", "hallucinated": "It was Bosk"}
    known = {"knowledge": "Ada was born in Arlen.", **both}
    general = {"query": "Hi", "response": "Bosk"}
    return [
        BenchmarkItem("h0", "halueval_qa", {**known, "question": "Where was Ada born?"}, "Ada"),
        BenchmarkItem("h1", "halueval_dialogue", {**known, "history": "Where was Ada born?"}),
        BenchmarkItem("h2", "halueval_summarization", {"document": "Ada was in Arlen.", **both}),
        BenchmarkItem(
            "h3",
            "halueval_general",
            {"query": "Hi", "response": "Bosk"},
            "",
            {"hallucinated": True},
        ),
        BenchmarkItem("h4", "halueval_general", general, "", {"hallucinated": False}),
    ]


def bold() -> list[BenchmarkItem]:
    texts = [
        ("south", "Ada", "Ada won praise "),
        ("south", "Bea", "Bea was"),
        ("north", "Cid", "x"),
    ]
    return [
        BenchmarkItem(
            f"b{i}", "bold", {"prompt": text}, entity, {"domain": "region", "group": group}
        )
        for i, (group, entity, text) in enumerate(texts * 2)
    ]


class FirstDocument:
    """A retriever that finds one article per name."""

    def search(self, queries, k):
        texts = {"Ada": "Ada was born in Arlen.", "Bea": "Bea was born in Bosk."}
        return [
            [Passage(n, t, 1.0, n, 0, len(t)) for n, t in texts.items() if n in query][:k]
            for query in queries
        ]


class WordReward:
    """A reward of one point per word."""

    def score(self, episodes):
        return {"score": np.array([float(len(e.response.split())) for e in episodes])}


def open_index(artifact: Artifact, *, method: str) -> FirstDocument:
    return FirstDocument()


def open_reward(artifact: Artifact, *, runtime: Any) -> WordReward:
    return WordReward()


def small_inputs(
    folder: Path, *names: str, seed: int = 0, kind: str = "sft"
) -> dict[str, Artifact]:
    """Return the inputs of an eval node; `names` are its slots beside the policy."""
    save_policy(small_policy(seed), folder / "policy" / "model")
    inputs = {"policy": Artifact.of(folder / "policy", kind)}
    records: dict[str, Any] = {
        "questions": questions,
        "halueval": halueval,
        "bold": bold,
        "prompts": prompts,
    }
    for name in names:
        data = folder / name
        data.mkdir(exist_ok=True)
        if name in records:
            file = "validation.jsonl" if name == "prompts" else "records.jsonl"
            write_records(records[name](), data / file)
            inputs[name] = Artifact.of(data, "data")
        else:
            opener = f"worlds.evaluation:open_{'reward' if name == 'rm' else name}"
            inputs[name] = Artifact.of(data, name, opener)
    return inputs


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
