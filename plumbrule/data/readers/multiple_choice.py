"""Format `multiple_choice`: questions with given answers, as ARC, MMLU and many others hold them.

A row is a `question`, its `choices` and which is right: `choices` a list of texts and `answer` the
place of the right one, from 0 (MMLU), or `choices` an object of `text` and `label` and `answerKey`
the right one's label (ARC). `subject` may stand beside them. Other columns are counted as not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import BenchmarkItem
from plumbrule.data.row_files import TABLE_ENDINGS, read_table, stem_of
from plumbrule.errors import DataError
from plumbrule.store.source_files import files_under

_READ = ("id", "question", "choices", "answer", "answerKey", "subject")


def read_multiple_choice(path: Path) -> Iterator[SourceRow]:
    """Yield an item per row of a table, or of all tables of a folder.

    Raises: DataError: no table, or a row that is neither of the two forms.
    """
    files = [path]
    if path.is_dir():
        files = [file for file in files_under(path) if file.name.endswith(TABLE_ENDINGS)]
    if not files:
        raise DataError(f"no table ({', '.join(TABLE_ENDINGS)}) is here; name a file.", path)
    for file in files:
        for number, row in read_table(file):
            try:
                choices, answer = _choices(row)
                question = row.get("question")
                if not isinstance(question, str) or not question.strip():
                    raise DataError(f"question (={question!r:.80}) must be text.")
            except DataError as error:
                text = json.dumps(row, ensure_ascii=False)
                raise DataError(str(error), file, number, text) from None
            id = str(row.get("id") or f"{stem_of(file)}:{number}")
            fields = {"question": question.strip(), "choices": choices, "answer": answer}
            meta = {"subject": str(row["subject"])} if row.get("subject") else {}
            unread = tuple(name for name in row if name not in _READ)
            yield SourceRow(BenchmarkItem(id, "multiple_choice", fields, id, meta), unread=unread)


def _choices(row: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return the answers of a row and the place of the right one. Raises: DataError."""
    choices, answer = row.get("choices"), row.get("answer")
    if isinstance(choices, Mapping):
        labels, choices = choices.get("label"), choices.get("text")
        key = row.get("answerKey")
        if not isinstance(labels, list) or key not in labels:
            raise DataError(f"answerKey (={key!r:.80}) must be one of choices.label.")
        answer = labels.index(key)
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise DataError(f"choices (={choices!r:.80}) must be a list of texts.")
    stripped = [choice.strip() for choice in choices]
    if len(stripped) < 2 or len(set(stripped)) < len(stripped):
        raise DataError(f"choices (={choices!r:.80}) must be at least two, and differ.")
    if type(answer) is not int or not 0 <= answer < len(stripped):
        raise DataError(
            f"answer (={answer!r:.80}) must be the place of the right choice, 0 to "
            f"{len(stripped) - 1}."
        )
    return stripped, answer


register_format(
    Format(
        name="multiple_choice",
        readers={"multiple_choice": read_multiple_choice},
        columns="question, choices (a list, or text and label), answer (a place) or answerKey",
        examples={
            "multiple_choice": {
                "test.jsonl": '{"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}\n'
            }
        },
        unread_settings=("validation_share", "split_seed", "annotators", "ties"),
    )
)
