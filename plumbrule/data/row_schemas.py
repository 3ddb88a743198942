"""The first of two steps from a row of somebody's table to a record: which schema its columns have.

The schemas are ours, chats, TRL's formats, H4's and other rankings; what is made of a row's values
is in `columns.py`. The names of the columns alone decide; nothing is guessed from values, so a file
means the same on every machine.
A row that has columns of two shapes, or one that no shape knows, is refused with the list of what
is accepted. Columns that a shape knows and does not read (`unread`) are counted on the data card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from plumbrule.data.benchmark_items import BENCHMARK
from plumbrule.data.turns import unread_fields
from plumbrule.errors import DataError, listed


class RowSchema(NamedTuple):
    """A set of columns with a meaning: those a row needs, those it may have, roles it can feed.

    numbered: the name of columns that are numbered from 0, as many as there are. unread: columns
    of which nothing is read. conversion: how the row becomes a chat, where that is a choice.
    """

    name: str
    needs: frozenset[str]
    may: frozenset[str]
    roles: frozenset[str]
    numbered: str = ""
    unread: frozenset[str] = frozenset()
    conversion: str = ""

    def fits(self, columns: set[str]) -> bool:
        """Return whether `columns` hold all that the shape needs and nothing that it may not."""
        return self.surplus(columns) == set()

    def surplus(self, columns: set[str]) -> set[str] | None:
        """Return what `columns` hold that the shape may not; None where they lack what it needs."""
        if self.numbered:
            if f"{self.numbered}0" not in columns:
                return None
            columns = {c for c in columns if not re.fullmatch(self.numbered + "[0-9]+", c)}
        return columns - self.needs - self.may if self.needs <= columns else None

    def __str__(self) -> str:
        numbered = [f"{self.numbered}0", f"{self.numbered}1", "..."] if self.numbered else []
        needs = " + ".join([*sorted(self.needs), *numbered])
        return f"{needs} (optional: {', '.join(sorted(self.may))})"


def _shape(
    name: str,
    needs: str,
    may: str,
    roles: str,
    numbered: str = "",
    unread: str = "",
    conversion: str = "",
) -> RowSchema:
    known, ignored = frozenset(needs.split()), frozenset(unread.split())
    optional = frozenset({"id", "meta", *may.split()}) | (ignored - known)
    return RowSchema(name, known, optional, frozenset(roles.split()), numbered, ignored, conversion)


_CHAT = "corpus demonstrations prompts"
_RANKED = f"{_CHAT} preferences"
_OF_PAIRS = "passages margin score_chosen score_rejected annotator confidence"
_ULTRAFEEDBACK = "source models correct_answers incorrect_answers"


SHAPES = (
    _shape("text", "text", "title kind", "corpus documents"),
    _shape("segments", "segments", "kind", "corpus"),
    _shape("prompt", "prompt", "", "prompts"),
    _shape("chat", "messages", "passages", "corpus demonstrations prompts"),
    _shape(
        "demonstration", "messages response", "passages searches", "corpus demonstrations prompts"
    ),
    _shape("completion", "prompt completion", "passages", "corpus demonstrations prompts"),
    _shape(
        "ranking",
        "messages responses ranks",
        "passages scores margin annotator confidence finished utilities terms flipped",
        _RANKED,
    ),
    _shape("pair", "chosen rejected", f"prompt {_OF_PAIRS}", _RANKED),
    _shape(
        "H4 pair",
        "prompt prompt_id chosen rejected",
        _OF_PAIRS,
        _RANKED,
        unread="prompt_id messages",
        conversion="H4: the prompt is what the dialogues chosen and rejected begin with",
    ),
    _shape(
        "H4 chat",
        "prompt prompt_id messages",
        "passages",
        _CHAT,
        unread="prompt prompt_id",
        conversion="H4: the last turn of messages is the answer",
    ),
    _shape(
        "ShareGPT",
        "conversations",
        "passages",
        _CHAT,
        conversion="ShareGPT: human is the user, gpt the assistant, whose last turn is the answer",
    ),
    _shape(
        "alpaca",
        "instruction output",
        "input passages",
        _CHAT,
        unread="text",
        conversion="alpaca: instruction, a blank line and input are the user's turn, output the "
        "answer",
    ),
    _shape(
        "prompt ranking",
        "prompt responses ranking",
        "passages scores margin annotator confidence",
        _RANKED,
    ),
    _shape("best of", "query best", "passages annotator confidence", _RANKED, numbered="sample"),
    *(
        _shape(
            f"rated {prompt}",
            f"{prompt} completions",
            "passages annotator confidence",
            _RANKED,
            unread=_ULTRAFEEDBACK,
        )
        for prompt in ("instruction", "prompt")
    ),
    _shape("benchmark", "task fields", "group", BENCHMARK),
)


def shape_of(row: Mapping[str, Any], role: str) -> RowSchema:
    """Return the one shape that the columns of `row` have.

    Raises: DataError: no shape has these columns, or the one that has cannot feed `role`.
    """
    columns = set(row)
    for shape in SHAPES:
        if shape.fits(columns) and role in shape.roles:
            return shape
    raise DataError(
        f"columns ({listed(sorted(columns), MOST_COLUMNS)}) must be a set that role {role} "
        f"accepts; {_nearest(columns, role)}; docs/bring_data.md lists all sets."
    )


MOST_COLUMNS = 6
"""Of a row, that an error shows."""


def _nearest(columns: set[str], role: str) -> str:
    """Return the set of columns that is nearest to those of a row, and what is to be changed."""

    def lacking(shape: RowSchema) -> set[str]:
        needed = shape.needs | ({f"{shape.numbered}0"} if shape.numbered else set())
        return {c for c in needed if c not in columns}

    def surplus(shape: RowSchema) -> set[str]:
        held = {c for c in columns if not shape.numbered or not c.startswith(shape.numbered)}
        return {c for c in held if c not in shape.needs | shape.may}

    known = [shape for shape in SHAPES if role in shape.roles]
    shape = min(known, key=lambda s: (2 * len(lacking(s)) + len(surplus(s)), len(s.needs)))
    add, out = sorted(lacking(shape)), sorted(surplus(shape))
    changes = [f"add {listed(add)}"] if add else []
    changes += [f"take out {listed(out, MOST_COLUMNS)}"] if out else []
    needs = " + ".join([*sorted(shape.needs), *([f"{shape.numbered}0 ..."] * bool(shape.numbered))])
    return f"the nearest is {shape.name} ({needs}): {' and '.join(changes)}"


def unread(row: Mapping[str, Any], shape: RowSchema) -> tuple[str, ...]:
    """Return the columns and fields of a row that hold something and of which nothing is read."""
    found = [name for name in sorted(shape.unread) if row.get(name) not in (None, "", [], {})]
    if "completions" in shape.needs:
        known = {"response", "overall_score", "fine-grained_score"}
        extra = {n for c in row["completions"] for n, value in c.items() if value}
        found += [f"completions[].{name}" for name in sorted(extra - known)]
    return (*found, *unread_fields(row))
