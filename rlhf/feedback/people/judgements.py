"""What a person said of a question, and the file that keeps it.

A judgement is one row of JSON:

    {"question": "<id>", "annotator": "anna", "ranks": [2, 1, 1], "comment": "", "revision": 1}

`ranks` are in the order of the question's `answers`, 1 the best, equal ranks tie, without holes;
null means "can't say". `annotator` is a plain word. `revision` counts an annotator's judgements of
a question from 1: a changed mind is a new row, and the last one counts.

An annotator's file is a journal: it only grows, one row at a time, each on the disk before whoever
wrote it is told so. A row counts when it is whole; the rest of one that a killed process left at
the end was never promised to anyone and is dropped. Whoever adds a row names the revision seen, and
is refused where another tab or person has judged the question since. Rows of a journal hold a
`digest` of their other fields, by which a flipped bit is found; an edit by hand takes it out.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.json_lines import read_rows
from plumbrule.data.strict_json import parse_json
from plumbrule.errors import DataError
from plumbrule.store.checkpoints import fsync_folder
from plumbrule.store.content_digests import OF_ROW, is_as_written, with_digest
from plumbrule.store.json_files import write_jsonl
from rlhf.feedback.people.questions import LabellingQuestion

FIELDS = ("question", "annotator", "ranks", "comment", "revision", "at")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
"""An annotator's name, which is also a file's: no separators, no dots, no capitals (on some disks
`Anna` and `anna` are one file)."""


class AnnotatorJudgement(NamedTuple):
    """What one annotator said of one question. ranks: None where they can't say."""

    question: str
    annotator: str
    ranks: tuple[int, ...] | None
    comment: str = ""
    revision: int = 1
    at: str = ""
    """When, UTC; for whoever wonders how long labelling takes."""


AnnotatorJudgements = dict[str, AnnotatorJudgement]
"""Question -> the judgement that counts, of one annotator."""


class StaleError(Exception):
    """A judgement that was made without having seen the newest one of its question."""


def annotator_name(text: str) -> str:
    """Return a name as it is kept: without capitals and outer blanks.

    Raises: DataError: it is no plain word.
    """
    name = text.strip().lower()
    if not NAME.fullmatch(name):
        raise DataError(
            f"annotator (={text!r:.60}) must be a plain word of at most 40 letters a-z, digits, "
            "- and _; choose another name."
        )
    return name


def from_row(row: Mapping[str, Any]) -> AnnotatorJudgement:
    """Return the judgement that `row` holds.

    Raises: DataError: an unknown or missing field, or a value that breaks its rule.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"a judgement must be a JSON object, not {type(row).__name__}.")
    row = undigested(row)
    unknown = set(row) - set(FIELDS)
    if unknown:
        raise DataError(
            f"unknown field(s) {sorted(unknown)!s:.200}; a judgement has {list(FIELDS)}."
        )
    for name in ("question", "ranks"):
        if name not in row:
            raise DataError(f"a judgement needs {name}; ranks are null where one can't say.")
    for name, kind, what in (
        ("question", str, "a question's id"),
        ("annotator", str, "text"),
        ("comment", str, "text"),
        ("revision", int, "a whole number"),
        ("at", str, "text"),
    ):
        if name in row and type(row[name]) is not kind:
            raise DataError(f"{name} (={row[name]!r:.60}) must be {what}.")
        if kind is str and not is_text(row.get(name, "")):
            raise DataError(f"{name} (={row[name]!r:.60}) must be {what}, without half characters.")
    return AnnotatorJudgement(
        row["question"],
        annotator_name(row.get("annotator", "file")),
        _ranks(row["ranks"]),
        row.get("comment", ""),
        row.get("revision", 1),
        row.get("at", ""),
    )


def undigested(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row without its `digest`, which need not be there.

    Raises: DataError: it is not that of the other fields.
    """
    if not is_as_written(row):
        raise DataError(
            f"{OF_ROW} (={row[OF_ROW]!r:.60}) must be that of the row's other fields: something "
            f"changed after it was written; put the row back from a copy, or take {OF_ROW} out to "
            "keep it as it stands."
        )
    return {name: value for name, value in row.items() if name != OF_ROW}


def is_text(value: str) -> bool:
    """Return whether text can be written: JSON may hold one half of a UTF-16 pair alone."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ranks(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(rank) is int for rank in value):
        raise DataError(f"ranks (={value!r:.60}) must be a list of whole numbers, or null.")
    if sorted(set(value)) != list(range(1, len(set(value)) + 1)):
        raise DataError(
            f"ranks (={value!s:.80}) must be 1..n with no hole (ties repeat a rank); give 1 to the "
            "best."
        )
    return tuple(value)


def to_row(judgement: AnnotatorJudgement) -> dict[str, Any]:
    """Return the JSON form of a judgement."""
    return {**judgement._asdict(), "ranks": judgement.ranks and list(judgement.ranks)}


def require_fit(judgement: AnnotatorJudgement, questions: Mapping[str, LabellingQuestion]) -> None:
    """Raise DataError unless the judgement is of one of `questions` and ranks all its answers."""
    question = questions.get(judgement.question)
    if question is None:
        raise DataError(
            f"question (={judgement.question!r:.60}) must be one of the {len(questions)} that were "
            "asked; judge the questions.jsonl of this run, or leave the row out."
        )
    if judgement.ranks is not None and len(judgement.ranks) != len(question.answers):
        raise DataError(
            f"ranks (={list(judgement.ranks)}) must number as many as the question's answers "
            f"(={len(question.answers)})."
        )


def append(path: Path, judgement: AnnotatorJudgement, seen: int) -> AnnotatorJudgement:
    """Add a judgement to an annotator's file and return it with its revision, safe on the disk.

    seen: the revision of the question's newest judgement that its author knew; 0: none.
    Raises: StaleError: there is a newer one. OSError: it could not be written.
    """
    is_new = not path.exists()
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of this open file, so threads exclude each other, too
        file.seek(0)
        text = file.read()
        rows, whole = _rows(text, path)
        newest = max((r.revision for r in rows if r.question == judgement.question), default=0)
        if newest != seen:
            raise StaleError
        if whole < len(text):
            file.truncate(whole)
        kept = judgement._replace(revision=newest + 1)
        gap = b"" if whole == 0 or text[:whole].endswith(b"\n") else b"\n"
        row = with_digest(to_row(kept))
        file.write(gap + json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        fsync_folder(path.parent)
    return kept


def read_journal(path: Path) -> AnnotatorJudgements:
    """Return what one annotator says, the last judgement of each question; {} without a file.

    Raises: DataError: a damaged row, but for a last one that was cut off.
    """
    if not path.exists():
        return {}
    rows, _ = _rows(path.read_bytes(), path)
    return {row.question: row for row in rows}


def _rows(text: bytes, path: Path) -> tuple[list[AnnotatorJudgement], int]:
    """Return the judgements of a journal and how many of its bytes hold whole rows."""
    rows, place = [], 0
    for number, line in enumerate(io.BytesIO(text), 1):  # splitlines() ends a row at "\r", too
        shown = line.decode("utf-8", "replace")
        try:
            row = parse_json(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                break
            raise DataError(f"{error}; remove the row.", path, number, shown) from None
        try:
            rows.append(from_row(row))
        except DataError as error:
            raise DataError(str(error), path, number, shown) from None
        place += len(line)
    return rows, place


def read_file(path: Path) -> dict[str, AnnotatorJudgements]:
    """Return annotator -> judgements of a file that was made elsewhere.

    A row replaces an earlier one only where its `revision` is higher, as in an annotator's journal.
    Raises: DataError: a row that breaks a rule, or a question twice by one annotator.
    """
    said: dict[str, AnnotatorJudgements] = {}
    for number, row in read_rows(path):
        try:
            judgement = from_row(row)
            own = said.setdefault(judgement.annotator, {})
            earlier = own.get(judgement.question)
            if earlier is not None and earlier.revision >= judgement.revision:
                raise DataError(
                    f"question (={judgement.question!r}) must be judged once by annotator "
                    f"{judgement.annotator!r}; keep one row, or give the later a higher revision."
                )
        except DataError as error:
            raise DataError(str(error), path, number, json.dumps(row)) from None
        own[judgement.question] = judgement
    return said


def write_file(judgements: Iterable[AnnotatorJudgement], path: Path) -> None:
    """Write judgements as `read_file` reads them."""
    write_jsonl(path, map(to_row, judgements))


def check_file(path: Path, questions: Mapping[str, LabellingQuestion]) -> None:
    """Raise DataError, with its row, for a judgement that fits none of `questions`."""
    for number, row in read_rows(path):
        try:
            require_fit(from_row(row), questions)
        except DataError as error:
            raise DataError(str(error), path, number, json.dumps(row)) from None


def finished(
    said: Mapping[str, AnnotatorJudgements], questions: Sequence[LabellingQuestion]
) -> list[str]:
    """Return, by name, who has judged every question."""
    asked = {q.id for q in questions}
    return sorted(name for name, own in said.items() if asked <= set(own))
