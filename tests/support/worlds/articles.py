"""A small world for the tests of the index: documents, and the stage run on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbrule.data.records import Document, write_records
from plumbrule.protocols import Retriever
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rag.config import IndexConfig
from rag.stage import run

PEOPLE = ("Ada Quill", "Bo Marsh", "Cy Farrow", "Di Thorne", "Ed Wexley", "Flo Banks")
TOWNS = ("Rome", "Cairo", "Lima", "Oslo", "Kyoto", "Quito")
TRADES = ("baker", "glazier", "miller", "dentist", "fisher", "painter")


def documents() -> list[Document]:
    """Return an article on each of six people; the second sentence does not name its subject."""
    return [
        Document(
            f"doc-{i}",
            f"{name} was born in {town}. The profession that was chosen later is {trade}.",
            name,
            {"questions": [f"Where was {name} born?", f"What is the profession of {name}?"]},
        )
        for i, (name, town, trade) in enumerate(zip(PEOPLE, TOWNS, TRADES, strict=True))
    ]


CPU = RuntimeConfig(device="cpu")


def opened(index: Artifact, method: str) -> Retriever:
    """Return the retriever of an index, on the CPU."""
    return index.open(CPU).retriever(method)


def build(folder: Path, records: Sequence[Document] | None = None, **config: Any) -> Artifact:
    """Return the index of `records` (the small world by default), built under `folder`."""
    return build_measured(folder, records, **config)[0]


def build_measured(
    folder: Path,
    records: Sequence[Document] | None = None,
    policy: Path | None = None,
    **config: Any,
) -> tuple[Artifact, dict[str, float]]:
    """Return the index and its metrics.

    Args: policy: folder of the artifact that is asked. config: settings; an `encoder` that is an
        artifact is the input.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    out = folder / "index"
    out.mkdir(exist_ok=True)
    write_records(documents() if records is None else records, folder / "data" / "records.jsonl")
    inputs = {"documents": Artifact.of(folder / "data", "data")}
    if policy is not None:
        inputs["policy"] = Artifact.of(policy, "sft")
    if isinstance(config.get("encoder"), Artifact):
        inputs["encoder"] = config.pop("encoder")
    settings = IndexConfig(**{"dimensions": 256, "chunk_words": 8, **config})
    metrics = run(settings, inputs, CPU, out, NullTracker())
    return Artifact.of(out, "index", opener="rag.retriever:open_index"), dict(metrics)
