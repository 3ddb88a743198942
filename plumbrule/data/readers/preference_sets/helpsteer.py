"""Formats `helpsteer3` (arXiv:2505.11475) and `helpsteer2` (arXiv:2406.08673).

HelpSteer3's `overall_preference` runs from -3 to 3, **negative where response1 is better**; 0 is a
tie. HelpSteer2 rates single answers: the rows that share a prompt are one ranking, by helpfulness,
wherever they stand in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import as_row, holds_out, ranked, register_ranked, split_files
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message
from plumbrule.data.row_checks import checked_rows, require_number, require_one_of, require_texts
from plumbrule.data.row_files import stem_of
from plumbrule.data.turns import read_turns
from plumbrule.errors import DataError

PREFERENCES = tuple(range(-3, 4))
_MARK = re.compile(r"<extra_id_1>(User|Assistant)\n")
_ROLES = {"User": "user", "Assistant": "assistant"}


def read_helpsteer3(path: Path) -> Iterator[SourceRow]:
    """Yield a pair per row, with how far the better one is ahead as its margin.

    Raises: DataError: no table, or a row that is not of the set's preference part.
    """
    for file, held_out in split_files(path):
        for number, row in checked_rows(file, _check3):
            messages = _context(row["context"])
            if messages[-1].role != "user":
                yield SourceRow(None, "the context does not end with the user", held_out)
                continue
            overall = row["overall_preference"]
            answers = (row["response1"], row["response2"])
            margin = {"margin": float(abs(overall))} if overall else {}
            id = f"{stem_of(file)}:{number}"
            yield as_row(ranked(id, messages, answers, (-overall, 0), **margin), held_out)


def _check3(row: Mapping[str, Any]) -> None:
    require_texts(row, "response1", "response2")
    require_one_of(row, "overall_preference", *PREFERENCES)
    _context(row.get("context"))


def _context(context: Any) -> tuple[Message, ...]:
    if isinstance(context, str):
        return (Message("user", context.strip()),)
    turns = read_turns(context, "context")
    if not turns:
        raise DataError("context must hold a turn.")
    return turns


def read_helpsteer2(path: Path) -> Iterator[SourceRow]:
    """Yield a ranking per prompt of all its rated answers.

    Raises: DataError: no table, or a row without prompt, response and helpfulness.
    """
    for file, held_out in split_files(path):
        prompts: dict[str, tuple[str, list[str], list[float]]] = {}
        for number, row in checked_rows(file, _check2):
            first = (f"{stem_of(file)}:{number}", [], [])
            _, answers, ratings = prompts.setdefault(row["prompt"], first)
            answers.append(row["response"])
            ratings.append(float(row["helpfulness"]))
        for prompt, (id, answers, ratings) in prompts.items():
            yield as_row(ranked(id, _turns(prompt), answers, ratings), held_out)


def _check2(row: Mapping[str, Any]) -> None:
    require_texts(row, "prompt", "response")
    require_number(row, "helpfulness")


def _turns(prompt: str) -> tuple[Message, ...]:
    """Return a prompt's turns; one of several turns marks each but the first with its speaker."""
    first, *parts = _MARK.split(prompt)
    turns = [Message("user", first.strip())]
    turns += [
        Message(_ROLES[who], text.strip()) for who, text in zip(*[iter(parts)] * 2, strict=True)
    ]
    return tuple(turns)


register_ranked(
    "helpsteer3",
    read_helpsteer3,
    "context (turns or text), response1, response2, overall_preference (-3 to 3, < 0: response1)",
    {
        "train.jsonl": '{"context": [{"role": "user", "content": "Hi"}], "response1": "Hello.", '
        '"response2": "What?", "overall_preference": -2}\n'
    },
    own_split=holds_out,
)
register_ranked(
    "helpsteer2",
    read_helpsteer2,
    "prompt, response, helpfulness: a row per answer",
    {
        "train.jsonl": '{"prompt": "Hi", "response": "Hello.", "helpfulness": 4}\n'
        '{"prompt": "Hi", "response": "What?", "helpfulness": 1}\n'
    },
    own_split=holds_out,
)
