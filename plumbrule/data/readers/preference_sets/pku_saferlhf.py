"""Formats `pku_saferlhf_better` and `pku_saferlhf_safer`: PKU-SafeRLHF (arXiv:2310.12773).

Each pair has two preferences, which of the answers is more helpful and which is safer, and they may
disagree; so the format's name says which one is meant. The set may not be used commercially (CC
BY-NC 4.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import as_row, holds_out, ranked, register_ranked, split_files
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message
from plumbrule.data.row_checks import checked_rows, require_one_of, require_texts
from plumbrule.data.row_files import stem_of

COLUMNS = {"better": "better_response_id", "safer": "safer_response_id"}


def read_pku_saferlhf(path: Path, prefer: str) -> Iterator[SourceRow]:
    """Yield a pair per row. Args: prefer: better or safer.

    Raises: DataError: no table, or a row without prompt, responses and the column that is meant.
    """
    column = COLUMNS[prefer]

    def check(row: Mapping[str, Any]) -> None:
        require_texts(row, "prompt", "response_0", "response_1")
        require_one_of(row, column, 0, 1)

    for file, held_out in split_files(path):
        for number, row in checked_rows(file, check):
            messages = (Message("user", row["prompt"].strip()),)
            answers = (row["response_0"], row["response_1"])
            values = [float(place == row[column]) for place in (0, 1)]
            found = ranked(f"{stem_of(file)}:{number}", messages, answers, values)
            yield as_row(found, held_out)


for prefer, column in COLUMNS.items():
    register_ranked(
        f"pku_saferlhf_{prefer}",
        partial(read_pku_saferlhf, prefer=prefer),
        f"prompt, response_0, response_1, {column}",
        {
            "train.jsonl": '{"prompt": "Hi", "response_0": "Hello.", "response_1": "What?", '
            '"better_response_id": 0, "safer_response_id": 1}\n'
        },
        own_split=holds_out,
    )
