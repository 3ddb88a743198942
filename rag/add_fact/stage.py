"""Stage `add_fact`: how long it takes until a policy answers from a document that is added.

What the next fact costs a policy that reads its knowledge. `sft/learn_fact/` is the other way, on
questions of the same set.

1. The questions on facts after the cut-off whose evidence (`meta.evidence`) is among the documents.
2. A live store (`rag/store/`) of all documents but the evidence of these questions, in a folder of
   its own that is thrown away.
3. For each question that is not answered without it: its evidence is added, passages are searched
   for, and the policy answers greedily. The clock runs from the document to the answer. There is
   one try: a second search would find the same.
4. `items/facts.jsonl`: a row for each fact. The seconds of each are in `metrics.jsonl`.

The store's encoder is the hashing one, so no seconds of a neural encoder are in it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.data.records import Document, Prompt, read_records
from plumbrule.errors import DataError
from plumbrule.lm.judges.known_answers import (
    answer_fact,
    new_fact_prompts,
    spread_over,
    until_answered,
)
from plumbrule.lm.loading import load_policy, resolve_device
from plumbrule.lm.policy import Policy
from plumbrule.lm.retrieval_prompts import shown_prompts
from plumbrule.protocols import Passage, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import ITEMS, MODEL, RECORDS
from plumbrule.store.json_files import write_jsonl
from rag.add_fact.config import AddFactConfig
from rag.chunks import EVERYONE
from rag.store.live import LiveStore
from rag.store.opening import make_store
from rag.store.settings import StoreSettings

READER = "add_fact"
"""For whom the store is searched; everyone may read its documents."""


class StoreRetriever:
    """A live store as a retriever."""

    def __init__(self, store: LiveStore, method: str):
        self.store, self.method = store, method

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return up to k passages per query, best first."""
        return [
            [
                Passage(
                    one.chunk.id,
                    one.chunk.text,
                    one.score,
                    one.chunk.document,
                    one.chunk.start,
                    one.chunk.end,
                )
                for one in found
            ]
            for found in self.store.search(list(queries), k, READER, self.method)
        ]


def run(
    config: AddFactConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Return `add_fact/{facts,answered,until_answered_seconds}`.

    Raises: DataError: no question on a new fact, or none whose evidence is among the documents.
    """
    # 1
    documents = {one.id: one for one in read_records(Document, inputs["documents"].file(RECORDS))}
    prompts = [
        prompt
        for prompt in new_fact_prompts(inputs["questions"].file(RECORDS))
        if evidence_of(prompt, documents)
    ]
    if not prompts:
        raise DataError(
            "documents must hold the evidence of a question (meta.evidence); give the node the "
            "documents that the questions are on.",
            inputs["documents"].file(RECORDS),
        )
    prompts = first_of_each_document(prompts, documents)
    number = min(config.num_facts, len(prompts))
    policy = load_policy(inputs["policy"].file(MODEL), device=resolve_device(runtime))
    rows: list[dict[str, Any]] = []
    seconds: list[float | None] = []
    # 2
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), "add_fact", StoreSettings())
        with store, tracker.progress(number, "add_fact", "facts") as line:
            later = {one.id for prompt in prompts for one in evidence_of(prompt, documents)}
            store.add([one for one in documents.values() if one.id not in later], [EVERYONE])
            # 3
            for prompt in spread_over(prompts, number):
                if len(rows) == number:
                    break
                if answered(policy, prompt, store, config)["answered"]:
                    continue
                begun = time.perf_counter()
                store.add(evidence_of(prompt, documents), [EVERYONE])
                row = answered(policy, prompt, store, config)
                taken = time.perf_counter() - begun
                rows.append(row)
                seconds.append(taken if row["answered"] else None)
                tracker.log({"time/fact_seconds": taken}, len(rows))
                line.advance()
    # 4
    (out / ITEMS).mkdir(exist_ok=True)
    write_jsonl(out / ITEMS / "facts.jsonl", rows)
    return until_answered("add_fact", seconds)


def evidence_of(prompt: Prompt, documents: Mapping[str, Document]) -> list[Document]:
    """Return the documents that answer a question; [] where one of them is not there."""
    named = list(prompt.meta.get("evidence") or ())
    return [documents[one] for one in named] if all(one in documents for one in named) else []


def first_of_each_document(
    prompts: Sequence[Prompt], documents: Mapping[str, Document]
) -> list[Prompt]:
    """Return the questions without those on a document that an earlier one is on."""
    found: list[Prompt] = []
    taken: set[str] = set()
    for prompt in prompts:
        own = {one.id for one in evidence_of(prompt, documents)}
        if not own & taken:
            found.append(prompt)
            taken |= own
    return found


def answered(
    policy: Policy, prompt: Prompt, store: LiveStore, config: AddFactConfig
) -> dict[str, Any]:
    """Return the row of one fact: what was found, and the answer."""
    retrieval = dataclasses.replace(config.retrieval.without_chance(), share=1.0)
    shown = shown_prompts(
        [prompt],
        policy,
        StoreRetriever(store, retrieval.method),
        retrieval,
        seed=config.seed,
        max_new_tokens=config.max_new_tokens,
    )[0]
    answer = answer_fact(policy, prompt, shown.tokens, shown.passages, config.max_new_tokens)
    return {
        "id": prompt.id,
        "question": prompt.messages[-1].content,
        "passages": len(shown.passages),
        "prompt_tokens": len(shown.tokens),
        "answered": answer.is_right,
        "response": answer.response,
    }
