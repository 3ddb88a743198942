"""Format `truthfulqa`: the answer sets of TruthfulQA (arXiv:2109.07958), its `mc_task.json`.

22 questions of the file of 790 have an answer without text. Its log-likelihood is 0, above that of
any text, so who scores it gets mc1 wrong whatever the model: it is left out, and the data card says
so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import BenchmarkItem
from plumbrule.data.row_files import read_table
from plumbrule.errors import DataError
from plumbrule.store.source_files import files_under

FILE = "mc_task.json"
SETS = ("mc0", "mc1", "mc2")


def read_truthfulqa(path: Path) -> Iterator[SourceRow]:
    """Yield an item per question: `question`, and answer -> 0 or 1 in mc1, mc2 and perhaps mc0.

    Raises: DataError: no `mc_task.json`, several of them, or a row without question, mc1_targets
        and mc2_targets.
    """
    file = _file(path)
    for number, row in read_table(file):
        sets = {name: row.get(f"{name}_targets") for name in SETS}
        needed = [sets["mc1"], sets["mc2"], *([sets["mc0"]] if "mc0_targets" in row else [])]
        if not isinstance(row.get("question"), str) or not all(map(_is_set, needed)):
            text = json.dumps(row, ensure_ascii=False)
            raise DataError(
                "a row must hold question, mc1_targets and mc2_targets as {answer: 0 or 1}.",
                file,
                number,
                text,
            )
        id = f"truthfulqa:{number}"
        fields: dict[str, Any] = {"question": row["question"].strip()}
        for name, answers in sets.items():
            if answers is not None:
                fields[name] = {text: label for text, label in answers.items() if text.strip()}
        blank = any(not text.strip() for answers in sets.values() for text in answers or ())
        done = ("an answer without text is left out of its question",) if blank else ()
        yield SourceRow(BenchmarkItem(id, "truthfulqa", fields, id), conversions=done)


def _is_set(answers: Any) -> bool:
    return isinstance(answers, Mapping) and all(
        type(label) is int and label in (0, 1) for label in answers.values()
    )


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    found = [file for file in files_under(path) if file.name == FILE]
    if len(found) != 1:
        names = ", ".join(str(file.relative_to(path)) for file in found) or "none"
        raise DataError(f"one {FILE} must be here ({names}); name the file.", path)
    return found[0]


_EXAMPLE = (
    '[{"question": "Can pigs fly?", "mc1_targets": {"No": 1, "Yes": 0}, '
    '"mc2_targets": {"No": 1, "They have no wings": 1, "Yes": 0}}]\n'
)

register_format(
    Format(
        name="truthfulqa",
        readers={"truthfulqa": read_truthfulqa},
        columns="question, mc1_targets, mc2_targets and perhaps mc0_targets: answer -> 0 or 1",
        examples={"truthfulqa": {FILE: _EXAMPLE}},
        unread_settings=("validation_share", "split_seed", "annotators", "ties"),
    )
)
