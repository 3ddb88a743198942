"""Format `halueval`: HaluEval's official files (arXiv:2305.11747)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from plumbrule.data.json_lines import read_rows
from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import BenchmarkItem
from plumbrule.data.row_files import JSON_ENDINGS
from plumbrule.errors import DataError
from plumbrule.store.source_files import files_under

HALUEVAL_FIELDS: dict[str, dict[str, str]] = {
    "qa": {
        "knowledge": "knowledge",
        "question": "question",
        "right": "right_answer",
        "hallucinated": "hallucinated_answer",
    },
    "dialogue": {
        "knowledge": "knowledge",
        "history": "dialogue_history",
        "right": "right_response",
        "hallucinated": "hallucinated_response",
    },
    "summarization": {
        "document": "document",
        "right": "right_summary",
        "hallucinated": "hallucinated_summary",
    },
    "general": {"query": "user_query", "response": "chatgpt_response"},
}
"""Task -> our field -> the official column."""


def read_halueval(path: Path) -> Iterator[SourceRow]:
    """Yield the items of HaluEval's official files (arXiv:2305.11747), those that are there.

    JSON Lines named `<task>_data*.json`. Every text is stripped: all right summaries end with a
    line break in the official file and no hallucinated one does, which gives the answer away. Rows
    are numbered, since an official `ID` occurs twice.
    Raises: DataError: no such file, several for one task, or a row without the task's columns.
    """
    for task, file in _halueval_files(path).items():
        columns = HALUEVAL_FIELDS[task]
        for number, row in read_rows(file):
            missing = [c for c in columns.values() if not isinstance(row.get(c), str)]
            label = row.get("hallucination")
            if missing or (task == "general" and label not in ("yes", "no")):
                needs = ", ".join(columns.values())
                needs += " and hallucination: yes or no" if task == "general" else ""
                text = json.dumps(row, ensure_ascii=False)
                raise DataError(f"a row of task {task} must hold {needs}.", file, number, text)
            id = f"{task}:{number}"
            fields = {ours: row[theirs].strip() for ours, theirs in columns.items()}
            meta = {"hallucinated": label == "yes"} if task == "general" else {}
            yield SourceRow(BenchmarkItem(id, f"halueval_{task}", fields, id, meta))


def _halueval_files(path: Path) -> dict[str, Path]:
    """Return the file of each task; `<task>_data.json` goes before others of its task."""
    files = files_under(path)
    found: dict[str, Path] = {}
    for task in HALUEVAL_FIELDS:
        named = [f for f in files if f.name.startswith(f"{task}_data")]
        named = [f for f in named if f.name.endswith(JSON_ENDINGS)]
        whole = [f for f in named if f.name == f"{task}_data.json"] or named
        if len(whole) > 1:
            names = ", ".join(str(f.name) for f in whole)
            raise DataError(f"several files of task {task} ({names}); keep one.", path)
        if whole:
            found[task] = whole[0]
    if not found:
        names = ", ".join(f"{task}_data.json" for task in HALUEVAL_FIELDS)
        raise DataError(f"none of {names} is here; check the path.", path)
    return found


_EXAMPLE = {
    "qa_data.json": '{"knowledge": "Ada wrote notes.", "question": "Who?", "right_answer": "Ada", '
    '"hallucinated_answer": "Ben"}\n',
    "general_data.json": '{"user_query": "Who?", "chatgpt_response": "Ben", '
    '"hallucination": "yes"}\n',
}

register_format(
    Format(
        name="halueval",
        readers={"halueval": read_halueval},
        columns="those of `HALUEVAL_FIELDS`, by task; general also hallucination: yes or no",
        examples={"halueval": _EXAMPLE},
        unread_settings=("validation_share", "split_seed", "annotators"),
    )
)
