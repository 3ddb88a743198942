"""The samples of a report: rows of `samples.jsonl`, alone or side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plumbrule.report import figures
from plumbrule.report.number_tables import shown
from plumbrule.report.optional_files import read_jsonl
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import SAMPLES
from plumbrule.store.input_names import SIGN

BENCHMARKS = ("prompts", "questions")
"""Whose samples are shown before and after, in this order."""
MAX_PAIRS = 8
MAX_SAMPLES = 6


def paired_samples(
    compare: str, nodes: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Artifact]
) -> list[dict[str, Any]]:
    """Return prompts that both evaluations of a compare node show, with both responses.

    Each has the columns of `samples.jsonl` that are numbers, before and after.
    """
    if SIGN in compare:
        return []
    inputs = nodes.get(compare, {}).get("inputs", {})
    sides = [
        {
            (row["benchmark"], row["condition"], row["id"]): row
            for row in read_jsonl(folders[inputs[slot]], SAMPLES)
            if "response" in row
        }
        for slot in ("baseline", "policy")
        if inputs.get(slot) in folders
    ]
    if len(sides) < 2:
        return []
    before, after = sides
    shared = [key for key in before if key in after]
    chosen = [key for b in BENCHMARKS for key in shared if key[0] == b][:MAX_PAIRS]
    return [
        {
            "condition": key[1],
            "prompt": before[key]["prompt"],
            "passages": before[key].get("passages") or [],
            "sides": [
                {
                    "node": inputs[slot],
                    "response": side[key]["response"],
                    "scores": [
                        (name, shown(value))
                        for name, value in side[key].items()
                        if isinstance(value, int | float) and value is not None
                    ],
                }
                for slot, side in (("baseline", before), ("policy", after))
            ],
        }
        for key in chosen
    ]


def samples(artifact: Artifact) -> list[list[tuple[str, str]]]:
    """Return the first samples of an artifact as lists of (field, text)."""
    return [list(_fields(row)) for row in read_jsonl(artifact, SAMPLES)[:MAX_SAMPLES]]


def _fields(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in row.items():
        if key in ("id", "key", "keys", "meta") or value in (None, [], {}, ""):
            continue
        yield key, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return figures.number(value)
    if isinstance(value, list) and value and isinstance(value[0], Mapping) and "role" in value[0]:
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in value)
    if isinstance(value, list):
        return "\n".join(f"- {_text(item)}" for item in value)
    if isinstance(value, Mapping):
        return "\n".join(f"{k}: {_text(v)}" for k, v in value.items())
    return str(value)
