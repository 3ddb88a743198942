"""Which side of a split a record falls on, decided by the conversation it belongs to.

Rows of one source often share a prompt (two pairs, a pair and a demonstration) or continue the same
conversation by a turn or two. Splitting by row would then train on what is held out. So the unit is
the *start* of a conversation: its first user turn, or for a plain text the whole text. A row is
held out when a hash of the normalised start and the seed falls below the share. (Normalised only
here, where it keeps what looks alike on one side. Whether two texts are the same, for leaks and
repeats, their letters decide: `10²` is not `102`, nor `Polish` `polish`.) The hash sees
nothing else, neither role nor file nor neighbours, which gives three properties at once: the same
prompt is never on both sides; preferences, prompts, demonstrations and corpus of one source agree
on what is held out; and adding rows moves none. The price is that a share is met on average only.

The same hash cuts a source into folds of equal shares (`fold_of`): fold 0 of 10 is what a share of
0.1 holds out. Folds are disjoint, and together they are all rows.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from plumbrule.data.records import (
    BenchmarkItem,
    Demonstration,
    Document,
    Message,
    Preference,
    Prompt,
    Record,
)

MOST_FOLDS = 100
_CHAT_TEXT = re.compile(
    r"\s*(?:<\|bos\|>)?(?:\s*<\|system\|>.*?)?\s*<\|user\|>(?P<turn>.*?)"
    r"(?=<\|(?:assistant|user|system|eos)\|>|\Z)",
    re.DOTALL,
)


def normalise(text: str) -> str:
    """Return `text` in NFKC, case folded, with every run of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def break_special_tokens(text: str) -> str:
    """Return `text` with `<|` broken up, so that no tokenizer reads a special token in it."""
    return text.replace("<|", "< |")


def corpus_text(row: Mapping[str, Any]) -> str:
    """Return the text of a corpus row: its `text`, or its `segments` of [text, loss weight]."""
    return row["text"] if "text" in row else "".join(text for text, _ in row["segments"])


def start_of(row: Record | Mapping[str, Any]) -> str:
    """Return the normalised start of the conversation that a record or corpus row belongs to.

    The first user turn; of a corpus row in chat form (`<|user|> ...`) also its first user turn; of
    any other text the whole text.
    """
    match row:
        case Prompt() | Demonstration() | Preference():
            return normalise(break_special_tokens(first_turn(row.messages)))
        case Document():
            return normalise(row.text)
        case BenchmarkItem():
            return normalise(f"{row.task} {row.id}")
        case _:
            text = corpus_text(row)
            chat = _CHAT_TEXT.match(text)
            return normalise(chat["turn"] if chat else text)


def first_turn(messages: tuple[Message, ...]) -> str:
    """Return the text of the first user turn."""
    return next(m.content for m in messages if m.role == "user")


def exact(text: str) -> str:
    """Return `text` itself: the counterpart of `normalise`."""
    return text


Prompting = tuple[tuple[str, str], ...]
"""The turns of a prompt as (role, text); of a plain text, one turn without role."""


def prompt_of(row: Record | Mapping[str, Any], spelling: Callable[[str], str] = exact) -> Prompting:
    """Return the whole prompt: every turn of a chat; of a text the text itself.

    spelling: `exact`, or `normalise` to find prompts that only look alike.
    """
    match row:
        case Prompt() | Demonstration() | Preference():
            return tuple((m.role, spelling(m.content)) for m in row.messages)
        case Document():
            return (("", spelling(row.text)),)
        case BenchmarkItem():
            return (("", f"{row.task} {row.id}"),)
        case _:
            return (("", spelling(corpus_text(row))),)


def in_held_out_share(start: str, share: float, seed: int) -> bool:
    """Return whether the conversation of that (normalised) start belongs to the held-out share."""
    return _place(start, seed) < share * 2.0**64


def fold_of(start: str, folds: int, seed: int) -> int:
    """Return which of `folds`, from 0, the conversation of that (normalised) start belongs to."""
    return (_place(start, seed) * folds) >> 64


def _place(start: str, seed: int) -> int:
    """Return where a conversation lies among all: a whole number below 2**64."""
    digest = hashlib.sha256(f"split {seed}\n{start}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def bootstrap_cluster(prompt_id: str, meta: Mapping[str, Any]) -> str:
    """Return what a prompt is resampled with: the entity it asks about, else itself."""
    return str(meta.get("entity") or prompt_id)
