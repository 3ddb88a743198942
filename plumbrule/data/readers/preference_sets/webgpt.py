"""Format `webgpt`: WebGPT's comparisons (arXiv:2112.09332).

`score_0` and `score_1` add up to 0, and 0 is a tie. **Each answer was written from its own
quotes**, so a prompt with the quotes would be another one for each side, and one with either's
would favour it. A ranking has one prompt, the question: no quotes are shown, and the marks `[1]`
that refer to them stay in the answers. The card says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import as_row, holds_out, ranked, register_ranked, split_files
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message
from plumbrule.data.row_checks import checked_rows, require_number, require_texts
from plumbrule.data.row_files import stem_of
from plumbrule.errors import DataError

DONE = ("webgpt: each side's own quotes are not shown, marks such as [1] stay",)


def read_webgpt(path: Path) -> Iterator[SourceRow]:
    """Yield a pair per row.

    Raises: DataError: no table, or a row without question.full_text, answers and scores.
    """
    for file, held_out in split_files(path):
        for number, row in checked_rows(file, _check):
            messages = (Message("user", row["question"]["full_text"].strip()),)
            answers = (row["answer_0"], row["answer_1"])
            scores = (float(row["score_0"]), float(row["score_1"]))
            found = ranked(f"{stem_of(file)}:{number}", messages, answers, scores)
            yield as_row(found, held_out, conversions=DONE)


def _check(row: Mapping[str, Any]) -> None:
    question = row.get("question")
    text = question.get("full_text") if isinstance(question, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"question (={question!r:.40}) must hold full_text.")
    require_texts(row, "answer_0", "answer_1")
    require_number(row, "score_0")
    require_number(row, "score_1")
    if row["score_0"] != -row["score_1"]:
        raise DataError(
            f"score_0 (={row['score_0']}) must be score_1 (={row['score_1']}) with its "
            "sign changed."
        )


register_ranked(
    "webgpt",
    read_webgpt,
    "question.full_text, answer_0, answer_1, score_0 = -score_1; quotes are not read",
    {
        "train.jsonl": '{"question": {"full_text": "Why?"}, "answer_0": "So [1].", '
        '"answer_1": "No.", "score_0": 0.5, "score_1": -0.5}\n'
    },
    own_split=holds_out,
)
