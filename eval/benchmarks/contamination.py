"""Was a benchmark's question trained on? What the store knows of it.

A policy's artifact names its inputs, and they theirs: its demonstrations, the preferences of its
reward model, the prompts of PPO. Of all data among them that lie in the store, the training rows'
user turns are compared with the questions, in any case and spacing. A question inside a longer
turn, one in other words, and what a model had seen before it came here are not found, so nothing
found proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.data.json_lines import read_rows
from plumbrule.data.splits import normalise, start_of
from plumbrule.store.file_names import RECORDS
from plumbrule.store.layout import artifacts_of, find_artifact, is_artifact_folder, kind_of
from plumbrule.store.manifests import inputs_of

DATA = ("data", "feedback", "reject")
"""Kinds of artifacts that hold training rows."""


def contamination_notes(
    benchmark: str, questions: Sequence[str], source: str | Path | None
) -> list[str]:
    """Return the note on questions that are prompts of the policy's training data, or none.

    Args: source: the folder of the policy's model; one outside a store has no known data.
    """
    asked = {normalise(question) for question in questions}
    notes = []
    for folder in training_data(source):
        seen = {turn for row in _rows(folder) for turn in _user_turns(row)} & asked
        if seen:
            notes.append(
                f"{benchmark}: {len(seen)} of {len(asked)} questions are prompts of "
                f"{kind_of(folder)}/{folder.name}, on which the policy or a model behind it was "
                "trained; its score here says nothing of questions that it has not seen."
            )
    return notes


def training_data(source: str | Path | None) -> list[Path]:
    """Return the folders of data that a policy comes from, as far as its store holds them."""
    policy = Path(source).parent if source is not None else None
    if policy is None or not is_artifact_folder(policy):
        return []
    found: dict[Path, None] = {}
    todo, done = [policy], set()
    while todo:
        folder = todo.pop()
        if folder in done:
            continue
        done.add(folder)
        if kind_of(folder) in DATA:
            found[folder] = None
        for fingerprint in inputs_of(folder).values():
            behind = find_artifact(artifacts_of(folder), fingerprint)
            if behind is not None:
                todo.append(behind)
    return sorted(found)


def _rows(folder: Path) -> Iterator[Mapping[str, Any]]:
    if (folder / RECORDS).is_file():
        for _, row in read_rows(folder / RECORDS):
            yield row


def _user_turns(row: Mapping[str, Any]) -> list[str]:
    """Return what users say in a record, or in a row of corpus at its start, normalised."""
    if "messages" in row:
        return [normalise(m["content"]) for m in row["messages"] if m["role"] == "user"]
    return [start_of(row)] if "text" in row and "id" not in row else []
