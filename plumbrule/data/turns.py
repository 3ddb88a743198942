"""Turns of a chat as other projects write them: the OpenAI layout and ShareGPT's.

A turn here is a role and a text. What a foreign turn holds besides is refused by name where the
chat would not be the same without it (a tool call, an image), and otherwise counted as not read
(`reasoning_content`, `name`, `weight` of an earlier turn), so that the data card shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from plumbrule.data.records import Message
from plumbrule.errors import DataError

TURN_COLUMNS = ("messages", "prompt", "completion", "chosen", "rejected", "query", "instruction")
"""Columns that may hold a list of turns."""
CALLS = ("tool_calls", "function_call", "tool_call_id")
SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""ShareGPT's `from` -> role."""


def read_turns(turns: Any, name: str) -> tuple[Message, ...]:
    """Return the messages of a list of {"role", "content"} turns, as foreign files have them.

    Content may be a list of parts of type text, which are joined.
    Raises: DataError: not a list, a turn without role or content, one that calls a tool or holds
    something other than text, or an answer of a weight other than 1.
    """
    if not isinstance(turns, list | tuple):
        raise DataError(f"{name} (={turns!r:.80}) must be a list of turns.")
    messages = [_turn(turn, f"{name}[{place}]") for place, turn in enumerate(turns)]
    if messages and messages[-1].role == "assistant":
        weight = turns[-1].get("weight")
        if weight is not None and (isinstance(weight, bool) or weight != 1):
            raise DataError(
                f"{name}[{len(turns) - 1}].weight (={weight!r:.20}) must be 1 on the answer, since "
                "all answers count alike; take the row or the weight out."
            )
    return tuple(messages)


def _turn(turn: Any, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{name} (={turn!r:.80}) must be an object with role and content.")
    for call in CALLS:
        if turn.get(call):
            raise DataError(
                f"{name}.{call} must be empty, since a turn is text alone and the chat would be "
                "another without it; write the call into the content or take the row out."
            )
    if "role" not in turn or "content" not in turn:
        raise DataError(f"{name} (={dict(turn)!r:.80}) must be an object with role and content.")
    return Message(turn["role"], _content(turn["content"], name))


def _content(content: Any, name: str) -> Any:
    """Return a turn's content; parts of type text are joined."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise DataError(f"{name}.content must be text, not a part of type {kind!r:.40}.")
    return "".join(part["text"] for part in content)


def read_sharegpt(turns: Any) -> tuple[Message, ...]:
    """Return the messages of ShareGPT's `conversations`: {"from": "human" or "gpt", "value"}.

    Raises: DataError: not a list of such turns, or a speaker that has no role here.
    """
    if not isinstance(turns, list):
        raise DataError(f"conversations (={turns!r:.80}) must be a list of turns.")
    messages = []
    for place, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or not {"from", "value"} <= set(turn):
            raise DataError(f"conversations[{place}] must be an object with from and value.")
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in SHAREGPT:
            raise DataError(
                f"conversations[{place}].from (={speaker!r:.40}) must be one of "
                f"{', '.join(SHAREGPT)}; take the row out."
            )
        messages.append(Message(SHAREGPT[speaker], turn["value"]))
    return tuple(messages)


def unread_fields(row: Mapping[str, Any]) -> list[str]:
    """Return what the turns of a row hold besides role and text, once each: `messages[].name`."""
    found: dict[str, None] = {}
    for column in TURN_COLUMNS:
        for place, turn in enumerate(turns := _listed(row.get(column))):
            last = place == len(turns) - 1
            extra = _extra(turn, {"role", "content"}, last)
            found |= dict.fromkeys(f"{column}[].{name}" for name in extra)
    for turn in _listed(row.get("conversations")):
        extra = _extra(turn, {"from", "value"}, True)
        found |= dict.fromkeys(f"conversations[].{name}" for name in extra)
    return list(found)


def _listed(turns: Any) -> list[Any]:
    return turns if isinstance(turns, list) else []


def _extra(turn: Any, known: set[str], last: bool) -> Iterable[str]:
    """Return the fields of a turn that hold something and are not read.

    A weight of 0 on an earlier turn is what happens to it anyway, and so is 1 on the last.
    """
    for name, value in turn.items() if isinstance(turn, Mapping) else ():
        if name in known or value in (None, "", [], {}):
            continue
        if name != "weight" or value != (1 if last else 0):
            yield name
