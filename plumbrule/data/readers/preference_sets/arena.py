"""Format `arena`: conversations with two models that a person compared, as Chatbot Arena's.

The content of a turn is a text or a list of typed parts, of which text parts are joined. `winner`
is model_a, model_b, tie, or one of the words for both being bad: a tie as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import as_row, holds_out, ranked, register_ranked, split_files
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.row_checks import checked_rows, require_one_of
from plumbrule.data.row_files import stem_of
from plumbrule.data.turns import read_turns
from plumbrule.errors import DataError

VALUES = {
    "model_a": (1.0, 0.0),
    "model_b": (0.0, 1.0),
    "tie": (0.0, 0.0),
    "both_bad": (0.0, 0.0),
    "tie (bothbad)": (0.0, 0.0),
}
"""Word of `winner` -> value of each side."""
DIFFER = "the conversations differ before the last answer"


def read_arena(path: Path) -> Iterator[SourceRow]:
    """Yield a pair per row; of conversations of several turns, the last answers.

    Raises: DataError: no table, or a row without conversation_a, conversation_b and winner.
    """
    for file, held_out in split_files(path):
        for number, row in checked_rows(file, _check):
            (*before, a), (*other, b) = (_turns(row, f"conversation_{side}") for side in "ab")
            if before != other:
                yield SourceRow(None, DIFFER, held_out)
                continue
            id, values = f"{stem_of(file)}:{number}", VALUES[row["winner"]]
            yield as_row(ranked(id, before, (a.content, b.content), values), held_out)


def _check(row: Mapping[str, Any]) -> None:
    require_one_of(row, "winner", *VALUES)
    for side in "ab":
        turns = _turns(row, f"conversation_{side}")
        if [m.role for m in turns[-2:]] != ["user", "assistant"]:
            raise DataError(f"conversation_{side} must end with a user's turn and its answer.")


def _turns(row: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    given = row.get(name)
    if not isinstance(given, list) or not all(isinstance(turn, Mapping) for turn in given):
        raise DataError(f"{name} (={given!r:.40}) must be a list of turns.")
    known = ("role", "content")
    return read_turns([{k: v for k, v in turn.items() if k in known} for turn in given], name)


register_ranked(
    "arena",
    read_arena,
    "conversation_a, conversation_b (turns), winner (model_a, model_b, tie, both_bad)",
    {
        "train.jsonl": '{"conversation_a": [{"role": "user", "content": [{"type": "text", "text": '
        '"Hi"}]}, {"role": "assistant", "content": "Hello."}], "conversation_b": [{"role": "user", '
        '"content": "Hi"}, {"role": "assistant", "content": "What?"}], "winner": "model_a"}\n'
    },
    own_split=holds_out,
)
