"""Responses that people labelled for hallucination: FaithDial's audit files and RAGTruth.

FaithDial's audit (Dziri et al. 2022, arXiv:2204.10757) is CSV files of human and model responses in
dialogues with the knowledge they should rest on. The label is a text of several: a response with
*hallucination* among them is one, one whose only label is *entailment* is supported; any other and
those without a label are counted and left out. The labels are misspelt here and there
(`entailmentt`, `hallucinated`, `entailment. uncooperative`), so they are told by how they begin.

RAGTruth (Niu et al. 2024, arXiv:2401.00396) is `response.jsonl`, with the spans that people marked,
and `source_info.jsonl`. Responses of a quality other than good are left out, as the authors advise.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.json_lines import read_rows
from plumbrule.data.row_checks import checked_rows, require_texts
from plumbrule.errors import DataError
from plumbrule.store.source_files import files_under

RESPONSES, SOURCES = "response.jsonl", "source_info.jsonl"
GOOD = "good"
_EVIDENCE = ("evidence", "knowledge")
_LABELS = ("BEGIN", "begin_label")
_KNOWN = {*_EVIDENCE, *_LABELS, "VRM", "vrm_label", "history", "", "id", "index", "Unnamed: 0"}


class Labelled(NamedTuple):
    """A response with what people said of it.

    spans: (start, end) of what they marked; None: they did not mark places. group: what is
    resampled together. part: the file or task that it is of.
    """

    id: str
    evidence: str
    response: str
    hallucinated: bool
    spans: tuple[tuple[int, int], ...] | None
    group: str
    part: str


class LabelledResponses(NamedTuple):
    """Labelled responses, and why others were left out -> how many."""

    responses: list[Labelled]
    dropped: Counter[str]


def read_faithdial(path: Path) -> LabelledResponses:
    """Return the responses of a CSV of the audit, or of all of a folder.

    Raises: DataError: no CSV, or one without evidence, label and response.
    """
    files = [path]
    if path.is_dir():
        files = [file for file in files_under(path) if file.name.endswith(".csv")]
    if not files:
        raise DataError("no *.csv is here; check eval_support.faithdial.", path)
    found, dropped = [], Counter[str]()
    for file in files:
        columns: tuple[str, str, str] | None = None
        for number, row in checked_rows(file, lambda row: None):
            columns = columns or _columns(row, file, number)
            evidence, label, response = (str(row.get(name, "")).strip() for name in columns)
            given = labels_of(label)
            if not evidence or not response:
                dropped["no evidence or no response"] += 1
            elif not given:
                dropped["no label"] += 1
            elif "hallucination" in given or given == {"entailment"}:
                name = file.name.removesuffix(".csv")
                is_one = "hallucination" in given
                id = f"{name}:{number}"
                found.append(Labelled(id, evidence, response, is_one, None, evidence, name))
            else:
                dropped["neither entailment alone nor hallucination"] += 1
    return LabelledResponses(found, dropped)


def _columns(row: Mapping[str, Any], file: Path, number: int) -> tuple[str, str, str]:
    """Return the names of evidence, label and response; of a model's file the last is its name."""
    evidence = next((name for name in _EVIDENCE if name in row), None)
    label = next((name for name in _LABELS if name in row), None)
    others = [name for name in row if name not in _KNOWN and name.strip()]
    response = "response" if "response" in row else (others[0] if len(others) == 1 else None)
    if evidence is None or response is None:
        raise DataError(
            "a row must hold evidence (or knowledge) and response (or a model's column alone).",
            file,
            number,
            ", ".join(row),
        )
    return evidence, label or _LABELS[0], response


def labels_of(text: str) -> set[str]:
    """Return the labels in a text of several, told by how they begin."""
    found = set()
    for part in re.split(r"[^a-z]+", text.lower()):
        for label, begins in (
            ("entailment", "entail"),
            ("hallucination", "halluc"),
            ("uncooperative", "uncoop"),
            ("generic", "generic"),
        ):
            if part.startswith(begins):
                found.add(label)
    return found


def read_ragtruth(folder: Path) -> LabelledResponses:
    """Return the good responses of RAGTruth with their spans.

    Raises: DataError: a file is missing, a row is not of its form, a response names no source, or
        a span does not lie in its response.
    """
    for name in (RESPONSES, SOURCES):
        if not (folder / name).is_file():
            raise DataError(f"{name} must be here; check eval_support.ragtruth.", folder)
    sources = {str(row.get("source_id")): row for _, row in read_rows(folder / SOURCES)}
    found, dropped = [], Counter[str]()
    for row in _ragtruth_rows(folder / RESPONSES, sources):
        if row["quality"] != GOOD:
            dropped[f"quality {row['quality']}"] += 1
            continue
        source_id = str(row["source_id"])
        source = sources[source_id]
        spans = tuple(sorted((label["start"], label["end"]) for label in row["labels"]))
        found.append(
            Labelled(
                str(row["id"]),
                evidence_of(source.get("source_info")),
                row["response"],
                bool(spans),
                spans,
                source_id,
                str(source.get("task_type", "")),
            )
        )
    return LabelledResponses(found, dropped)


def _ragtruth_rows(path: Path, sources: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    def check(row: Mapping[str, Any]) -> None:
        require_texts(row, "response", "quality")
        if str(row.get("source_id")) not in sources:
            raise DataError(f"source_id (={row.get('source_id')!r:.40}) must be in {SOURCES}.")
        labels, length = row.get("labels"), len(row["response"])
        fits = isinstance(labels, list) and all(
            isinstance(one, Mapping)
            and type(one.get("start")) is int
            and type(one.get("end")) is int
            and 0 <= one["start"] < one["end"] <= length
            for one in labels
        )
        if not fits:
            raise DataError(
                f"labels (={labels!r:.80}) must be objects whose start and end lie in the response."
            )

    for _, row in checked_rows(path, check):
        yield row


def evidence_of(source: Any) -> str:
    """Return a source as text: as it is, or its values one under the other."""
    if isinstance(source, str):
        return source
    if isinstance(source, Mapping):
        return "\n".join(f"{key}: {evidence_of(value)}" for key, value in source.items())
    if isinstance(source, list):
        return "\n".join(map(evidence_of, source))
    return json.dumps(source)
