"""Formats `open_qa` and `simpleqa`: questions with reference answers.

A row of open_qa is a `question` (or `prompt`) and its `answers`: a list of texts, one text under
`answer`, or SQuAD's object with `text`. `context` (a text) or `passages` (a list) are shown with
it. A question without an answer, as SQuAD 2 has them, is left out and counted.

A row of simpleqa is `problem`, `answer` and `metadata`, which in the released CSV is **a Python
literal and no JSON**.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import named_rows
from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import BenchmarkItem
from plumbrule.data.row_checks import require_texts
from plumbrule.errors import DataError

UNANSWERED = "the question has no answer"
_READ = ("id", "question", "prompt", "answers", "answer", "context", "passages")


def read_open_qa(path: Path) -> Iterator[SourceRow]:
    """Yield an item per row that has an answer.

    Raises: DataError: no table, or a row without question or answers.
    """
    for row, name in named_rows(path, _check_open_qa):
        answers = list(dict.fromkeys(_answers(row)))
        if not answers:
            yield SourceRow(None, UNANSWERED)
            continue
        fields: dict[str, Any] = {"question": _question(row), "answers": answers}
        if passages := _passages(row):
            fields["passages"] = passages
        id = str(row.get("id") or name)
        unread = tuple(column for column in row if column not in _READ)
        yield SourceRow(BenchmarkItem(id, "open_qa", fields, id), unread=unread)


def _check_open_qa(row: Mapping[str, Any]) -> None:
    if not _question(row):
        raise DataError("a row must hold the text question (or prompt).")
    _answers(row)
    _passages(row)


def _question(row: Mapping[str, Any]) -> str:
    given = row.get("question", row.get("prompt"))
    return given.strip() if isinstance(given, str) else ""


def _answers(row: Mapping[str, Any]) -> list[str]:
    given = row.get("answers", row.get("answer"))
    if isinstance(given, Mapping):
        given = given.get("text")
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(a, str) for a in given):
        raise DataError(f"answers (={given!r:.80}) must be texts, or an object with text.")
    return [answer.strip() for answer in given if answer.strip()]


def _passages(row: Mapping[str, Any]) -> list[str]:
    given = row.get("passages", row.get("context"))
    if given is None:
        return []
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not all(isinstance(p, str) for p in given):
        raise DataError(f"passages (={given!r:.80}) must be a list of texts, and context a text.")
    return given


def read_simpleqa(path: Path) -> Iterator[SourceRow]:
    """Yield an item per row, with `topic` and `answer_type` in its meta.

    Raises: DataError: no table, or a row without problem and answer, or whose metadata can't be
        read.
    """
    for row, id in named_rows(path, _check_simpleqa):
        about = _metadata(row)
        meta = {name: str(about[name]) for name in ("topic", "answer_type") if name in about}
        fields = {"question": row["problem"].strip(), "answers": [row["answer"].strip()]}
        yield SourceRow(BenchmarkItem(id, "simpleqa", fields, id, meta))


def _check_simpleqa(row: Mapping[str, Any]) -> None:
    require_texts(row, "problem", "answer")
    if not row["problem"].strip() or not row["answer"].strip():
        raise DataError("problem and answer must hold text.")
    _metadata(row)


def _metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    given = row.get("metadata", {})
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)  # values alone, no code
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            given = None
    if not isinstance(given, Mapping):
        raise DataError(
            f"metadata (={row.get('metadata')!r:.40}) must be a Python literal of a dict."
        )
    return given


_UNREAD = ("validation_share", "split_seed", "annotators", "ties")
register_format(
    Format(
        name="open_qa",
        readers={"open_qa": read_open_qa},
        columns="question or prompt, answers (texts) or answer; perhaps context or passages",
        examples={"open_qa": {"dev.jsonl": '{"question": "2 + 2?", "answers": ["4", "four"]}\n'}},
        unread_settings=_UNREAD,
    )
)
register_format(
    Format(
        name="simpleqa",
        readers={"simpleqa": read_simpleqa},
        columns="problem, answer, metadata (a Python literal)",
        examples={
            "simpleqa": {
                "simple_qa_test_set.csv": "metadata,problem,answer\n"
                "\"{'topic': 'Sums', 'answer_type': 'Number'}\",2 + 2?,4\n"
            }
        },
        unread_settings=_UNREAD,
    )
)
