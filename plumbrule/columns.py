"""Rows of JSON Lines, told apart by their columns: ours, chats, and TRL's dataset formats.

The columns alone decide; nothing is guessed from values, so a file means the same on every machine.
TRL's *standard* rows hold text and its *conversational* ones lists of turns; a standard prompt
becomes the user's turn and a completion the assistant's, since every prompt here is a chat. White
space around foreign answers is dropped: the policy's own template puts it back. A row that has
columns of two shapes, or one that no shape knows, is refused with the list of what is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

from plumbrule.errors import DataError
from plumbrule.records import (
    BenchmarkItem,
    Demonstration,
    Document,
    Message,
    Preference,
    Prompt,
    Record,
    from_dict,
    to_messages,
)
from plumbrule.roles import Chat, as_role

T = TypeVar("T")


class Shape(NamedTuple):
    """A set of columns with a meaning: those a row needs, those it may have, roles it can feed."""

    name: str
    needs: frozenset[str]
    may: frozenset[str]
    roles: frozenset[str]


def _shape(name: str, needs: str, may: str, roles: str) -> Shape:
    optional = frozenset({"id", "meta", *may.split()})
    return Shape(name, frozenset(needs.split()), optional, frozenset(roles.split()))


SHAPES = (
    _shape("text", "text", "title kind", "corpus documents"),
    _shape("segments", "segments", "kind", "corpus"),
    _shape("prompt", "prompt", "", "prompts"),
    _shape("chat", "messages", "passages", "corpus demonstrations prompts"),
    _shape("demonstration", "messages response", "passages", "corpus demonstrations prompts"),
    _shape("completion", "prompt completion", "passages", "corpus demonstrations prompts"),
    _shape(
        "ranking",
        "messages responses ranks",
        "passages scores margin annotator confidence",
        "corpus demonstrations prompts preferences",
    ),
    _shape(
        "pair",
        "chosen rejected",
        "prompt passages margin score_chosen score_rejected",
        "corpus demonstrations prompts preferences",
    ),
    _shape("benchmark", "task fields", "group", "questions halueval bold"),
)


def shape_of(row: Mapping[str, Any], role: str) -> Shape:
    """Return the one shape that the columns of `row` have.

    Raises: DataError: no shape has these columns, or the one that has cannot feed `role`.
    """
    columns = set(row)
    for shape in SHAPES:
        if shape.needs <= columns <= shape.needs | shape.may and role in shape.roles:
            return shape
    accepted = "; ".join(
        f"{' + '.join(sorted(s.needs))} (optional: {', '.join(sorted(s.may))})"
        for s in SHAPES
        if role in s.roles
    )
    raise DataError(
        f"columns ({', '.join(sorted(columns))}) must be one of the sets that role {role} "
        f"accepts: {accepted}."
    )


def parse_row(row: Mapping[str, Any], shape: Shape, id: str, role: str) -> Record | dict[str, Any]:
    """Return the record that `row`, which has the columns of `shape`, gives to `role`.

    A row without an id of its own gets `id`.
    Raises: DataError: a value of the wrong type, or one that breaks the record's rules.
    """
    values = {"id": id, **row}
    values["id"] = str(values["id"])
    kind = {"kind": values["kind"]} if "kind" in values else {}
    match shape.name:
        case "text" if role == "documents":
            return from_dict(Document, values)
        case "text":
            return {"text": _text(values, "text"), **kind}
        case "segments":
            return {"segments": _segments(values["segments"]), **kind}
        case "benchmark":
            return _benchmark(values, role)
        case _:
            return as_role(_CHATS[shape.name](values), role)


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str) or not row[name].strip():
        raise DataError(f"{name} (={row[name]!r:.80}) must be text; remove the row or fill it.")
    return row[name]


def _segments(segments: Any) -> list[Any]:
    fits = isinstance(segments, list) and all(
        isinstance(segment, list)
        and [type(part) for part in segment] in ([str, int], [str, float])
        and segment[1] >= 0
        for segment in segments
    )
    if not fits or not any(text.strip() for text, _ in segments):
        raise DataError(
            f"segments (={segments!r:.80}) must be a list of [text, loss weight of at least 0]."
        )
    return segments


def _benchmark(row: Mapping[str, Any], role: str) -> BenchmarkItem:
    item = from_dict(BenchmarkItem, row)
    prefix = {"questions": "question", "halueval": "halueval_", "bold": "bold"}[role]
    if not item.task.startswith(prefix):
        raise DataError(f"task (={item.task}) must begin with {prefix} for role {role}.")
    return item


def _turns(row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    """Return the turns under `name`: a list of them, or a text that is taken for the user's."""
    if isinstance(row[name], str):
        return (Message("user", _text(row, name).strip()),)
    return to_messages(row[name])


def _answer(turns: tuple[Message, ...]) -> str:
    if [m.role for m in turns] != ["assistant"]:
        roles = ", ".join(m.role for m in turns) or "none"
        raise DataError(f"an answer (turns: {roles}) must be one assistant turn after the prompt.")
    if not turns[0].content.strip():
        raise DataError("an answer must hold text; remove the row.")
    return turns[0].content.strip()


def _prompt(row: Mapping[str, Any]) -> Prompt:
    return Prompt(row["id"], _turns(row, "prompt"), _meta(row))


def _chat(row: Mapping[str, Any]) -> Prompt | Demonstration:
    """Return a demonstration of the last turn where that is the assistant's, else a prompt."""
    turns = to_messages(row["messages"])
    if turns and turns[-1].role == "assistant":
        answer = _answer(turns[-1:])
        return Demonstration(row["id"], turns[:-1], answer, _passages(row), _meta(row))
    return Prompt(row["id"], turns, _meta(row))


def _completion(row: Mapping[str, Any]) -> Demonstration:
    prompt, completion = _turns(row, "prompt"), _completion_turns(row, "completion")
    return Demonstration(row["id"], prompt, _answer(completion), _passages(row), _meta(row))


def _pair(row: Mapping[str, Any]) -> Preference:
    """Return the preference of a pair; without a prompt it is what both sides begin with."""
    _same_kind(row, [name for name in ("prompt", "chosen", "rejected") if name in row])
    if "prompt" in row:
        prompt = _turns(row, "prompt")
        sides = [_completion_turns(row, "chosen"), _completion_turns(row, "rejected")]
    else:
        prompt, *sides = _split_pair(row["chosen"], row["rejected"])
    scores = None
    if "score_chosen" in row and "score_rejected" in row:
        scores = (row["score_chosen"], row["score_rejected"])
    values = {
        "messages": [{"role": m.role, "content": m.content} for m in prompt],
        "responses": [_answer(side) for side in sides],
        "ranks": [1, 2],
        "scores": scores,
    }
    kept = {n: row[n] for n in ("id", "passages", "margin", "meta") if n in row}
    return from_dict(Preference, {n: v for n, v in {**kept, **values}.items() if v is not None})


def _same_kind(row: Mapping[str, Any], names: list[str]) -> None:
    kinds = {type(row[name]) for name in names}
    if len(kinds) > 1 or not kinds <= {str, list}:
        shown = ", ".join(f"{name}: {type(row[name]).__name__}" for name in names)
        raise DataError(f"columns ({shown}) must be all texts or all lists of turns.")


def _completion_turns(row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    if isinstance(row[name], str):
        return (Message("assistant", _text(row, name).strip()),)
    return to_messages(row[name])


def _split_pair(chosen: Any, rejected: Any) -> tuple[tuple[Message, ...], ...]:
    """Return the prompt that two whole dialogues or texts share, and what follows it in each.

    Of texts the prompt is the longest common beginning, moved back to the end of a word.
    """
    if isinstance(chosen, str):
        if chosen.lstrip().startswith("Human:"):
            raise DataError("the row holds a Human/Assistant dialogue; use dataset.format=hh_rlhf.")
        prompt = "".join(_shared(_words(chosen), _words(rejected)))
        if not prompt.strip():
            raise DataError("chosen and rejected must begin alike; give the prompt in its column.")
        sides = (chosen[len(prompt) :].strip(), rejected[len(prompt) :].strip())
        return (Message("user", prompt.strip()),), *((Message("assistant", s),) for s in sides)
    one, other = to_messages(chosen), to_messages(rejected)
    shared = tuple(_shared(one, other))
    if len(shared) == min(len(one), len(other)):
        raise DataError("chosen and rejected must differ in their last turn; drop the row.")
    return shared, one[len(shared) :], other[len(shared) :]


def _shared(one: Sequence[T], other: Sequence[T]) -> list[T]:
    """Return the longest common beginning."""
    pairs = zip(one, other, strict=False)
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _words(text: str) -> list[str]:
    """Return the words of a text, each with the white space before it; joined they are the text."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def _passages(row: Mapping[str, Any]) -> tuple[str, ...]:
    passages = row.get("passages", ())
    if not isinstance(passages, list | tuple) or not all(isinstance(p, str) for p in passages):
        raise DataError(f"passages (={passages!r:.80}) must be a list of texts.")
    return tuple(passages)


def _meta(row: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = row.get("meta", {})
    if not isinstance(meta, Mapping):
        raise DataError(f"meta (={meta!r:.80}) must be a JSON object.")
    return meta


_CHATS: dict[str, Callable[[Mapping[str, Any]], Chat]] = {
    "prompt": _prompt,
    "chat": _chat,
    "demonstration": lambda row: from_dict(Demonstration, row),
    "completion": _completion,
    "ranking": lambda row: from_dict(Preference, row),
    "pair": _pair,
}
