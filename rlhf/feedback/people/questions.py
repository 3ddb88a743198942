"""What a person is asked: a conversation, the passages shown with it, and the answers to rank.

A question's id is a digest of just these. `questions.jsonl` holds one a row, in the order in which
they are asked: by id, so that whoever stops early has judged a random sample of all prompts, and at
the end the first of them once more, with the answers in another order. How often a person says the
same again bounds how far two people, or a reward model, can agree with that person.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Message, to_messages
from plumbrule.errors import DataError
from plumbrule.store.fingerprint import digest
from plumbrule.store.json_files import write_jsonl


class LabellingQuestion(NamedTuple):
    """One thing to judge. repeats: the id of the question that this one asks again, or None."""

    id: str
    messages: tuple[Message, ...]
    passages: tuple[str, ...]
    answers: tuple[str, ...]
    repeats: str | None = None


def question_of(
    messages: Sequence[Message], passages: Sequence[str], answers: Sequence[str]
) -> LabellingQuestion:
    """Return the question of ranking `answers`, which differ and number at least 2."""
    chat = [[m.role, m.content] for m in messages]
    name = digest([chat, list(passages), list(answers)])
    return LabellingQuestion(name, tuple(messages), tuple(passages), tuple(answers))


def in_asking_order(
    questions: Sequence[LabellingQuestion], repeats: float
) -> list[LabellingQuestion]:
    """Return what is asked: each distinct question, then a share `repeats` of them once more."""
    distinct = sorted({q.id: q for q in questions}.values(), key=lambda q: q.id)
    number = math.ceil(round(repeats * len(distinct), 6))
    again = [q._replace(id=f"{q.id}-again", repeats=q.id) for q in distinct[:number]]
    return [*distinct, *again]


def shown_order(question: LabellingQuestion, annotator: str) -> list[int]:
    """Return the order of answers on the page: another for each annotator, and when asked again.

    So no place on the page, and no order of sampling, favours an answer.
    """
    numbers = range(len(question.answers))
    first = question.repeats or question.id
    order = sorted(numbers, key=lambda k: digest([annotator, first, k]))
    if question.repeats is None:
        return order
    again = sorted(numbers, key=lambda k: digest([annotator, question.id, k]))
    return again if again != order else [*again[1:], again[0]]


def write_questions(questions: Sequence[LabellingQuestion], path: Path) -> None:
    """Write `questions.jsonl` whole, or not at all."""
    write_jsonl(path, map(to_row, questions))


def read_questions(path: Path) -> list[LabellingQuestion]:
    """Return the questions of a file that `write_questions` wrote.

    Raises: DataError: no such file, or a row that is no question.
    """
    questions = []
    for number, row in read_rows(path):
        try:
            questions.append(_from_row(row))
        except DataError as error:
            raise DataError(
                f"{error} The feedback stage writes this file; run it again.",
                path,
                number,
                json.dumps(row),
            ) from None
    return questions


def require_own_ids(questions: Sequence[LabellingQuestion], path: Path) -> None:
    """Raise DataError where a question's id is not that of its content: a byte has changed."""
    for number, question in enumerate(questions, 1):
        of_content = question_of(question.messages, question.passages, question.answers).id
        if question.repeats is not None:
            of_content += "-again"
        if question.id != of_content:
            raise DataError(
                f"question (={question.id!r:.60}) must have the id of its content; remove the file "
                "and run the command that asks it again: the feedback stage writes this file.",
                path,
                number,
            )


def _from_row(row: dict[str, Any]) -> LabellingQuestion:
    for name in ("question", "messages", "passages", "answers"):
        if name not in row:
            raise DataError(f"a question needs {name}.")
    for name in ("passages", "answers"):
        texts = row[name]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{name} (={texts!r:.80}) must be a list of texts.")
    repeats = row.get("repeats")
    if type(row["question"]) is not str or not isinstance(repeats, str | None):
        raise DataError("question and repeats must be texts.")
    if len(set(row["answers"])) < max(2, len(row["answers"])):
        raise DataError(f"answers (={len(row['answers'])}) must be at least 2 that differ.")
    return LabellingQuestion(
        row["question"],
        to_messages(row["messages"]),
        tuple(row["passages"]),
        tuple(row["answers"]),
        repeats,
    )


def to_row(question: LabellingQuestion) -> dict[str, Any]:
    """Return the JSON form of a question."""
    row: dict[str, Any] = {
        "question": question.id,
        "messages": [{"role": m.role, "content": m.content} for m in question.messages],
        "passages": list(question.passages),
        "answers": list(question.answers),
    }
    return row | ({"repeats": question.repeats} if question.repeats else {})
