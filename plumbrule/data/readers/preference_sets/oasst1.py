"""Format `oasst1`: OpenAssistant Conversations (arXiv:2304.07327), one message a row.

The answers to one message are a ranking by their `rank`, **0 the best**; answers without a rank
(`null`) are in none. Deleted messages and those whose review failed are no answers, and nothing
below them is a prompt. A tree of messages begins with one prompt, so the split keeps it on one
side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import as_row, holds_out, ranked, register_ranked, split_files
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message
from plumbrule.data.row_checks import checked_rows, require_one_of, require_texts
from plumbrule.errors import DataError

ROLES = {"prompter": "user", "assistant": "assistant"}
GONE = "an earlier message is deleted, failed its review or is not there"


def read_oasst1(path: Path) -> Iterator[SourceRow]:
    """Yield a ranking per message that has ranked answers.

    Raises: DataError: no table, or a row without message_id, parent_id, text and role.
    """
    for file, held_out in split_files(path):
        messages = {row["message_id"]: row for _, row in checked_rows(file, _check)}
        answers: dict[str, list[Mapping[str, Any]]] = {}
        for row in messages.values():
            if row["role"] == "assistant" and _is_good(row) and row.get("rank") is not None:
                answers.setdefault(str(row.get("parent_id")), []).append(row)
        for parent, rows in answers.items():
            turns = _path_to(parent, messages)
            if turns is None:
                yield SourceRow(None, GONE, held_out)
                continue
            texts, ranks = [row["text"] for row in rows], [-float(row["rank"]) for row in rows]
            yield as_row(ranked(parent, turns, texts, ranks), held_out)


def _check(row: Mapping[str, Any]) -> None:
    require_texts(row, "message_id", "text")
    require_one_of(row, "role", *ROLES)
    parent, rank = row.get("parent_id"), row.get("rank")
    if parent is not None and not isinstance(parent, str):
        raise DataError(f"parent_id (={parent!r:.40}) must be text or null.")
    if rank is not None and type(rank) not in (int, float):
        raise DataError(f"rank (={rank!r:.40}) must be a number from 0, the best, or null.")


def _is_good(row: Mapping[str, Any]) -> bool:
    return not row.get("deleted") and row.get("review_result") is not False and row["text"].strip()


def _path_to(id: str, messages: Mapping[str, Mapping[str, Any]]) -> tuple[Message, ...] | None:
    """Return the chat from the root to a message of the user; None: some of it is gone."""
    turns: list[Message] = []
    at: Any = id
    while at is not None:
        row = messages.get(at)
        if row is None or not _is_good(row) or len(turns) > len(messages):
            return None
        turns.append(Message(ROLES[row["role"]], row["text"].strip()))
        at = row.get("parent_id")
    return tuple(reversed(turns)) if turns[0].role == "user" else None


_ROWS = (
    '{"message_id": "a", "parent_id": null, "text": "Hi", "role": "prompter"}\n'
    '{"message_id": "b", "parent_id": "a", "text": "Hello.", "role": "assistant", "rank": 0}\n'
    '{"message_id": "c", "parent_id": "a", "text": "What?", "role": "assistant", "rank": 1}\n'
)
register_ranked(
    "oasst1",
    read_oasst1,
    "message_id, parent_id, text, role, rank (0 best), deleted, review_result: a row per message",
    {"train.jsonl": _ROWS},
    own_split=holds_out,
)
