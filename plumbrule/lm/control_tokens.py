"""Chats whose turns spell out control tokens, for a transformers that cannot encode them as text.

Newer versions do it themselves (`apply_chat_template(..., sanitize_control_tokens=True)`); an older
one takes the option for a variable of the template and lets a document end a turn. So here, where
the option is absent: each control token in a turn is put between two private characters before the
chat is rendered, the rendered chat is cut there, and what stood between them is encoded letter by
letter. A chat that spells out none is encoded as ever.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from plumbrule.errors import DataError

BEGIN, END = "\ue0f0", "\ue0f1"
"""Characters of Unicode's private use area; those that a turn brings along are dropped."""


def is_built_in(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer's own `apply_chat_template` encodes such turns as text."""
    return "sanitize_control_tokens" in inspect.signature(tokenizer.apply_chat_template).parameters


def encode(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[dict[str, str]],
    template: str,
    generation_prompt: bool,
) -> list[int]:
    """Return the token ids of a chat, with control tokens in its turns as plain text.

    Raises: DataError: the tokenizer makes a control token of that text all the same.
    """
    tokens = control_tokens(tokenizer, template)
    pattern = re.compile("|".join(re.escape(token) for token in tokens) or "(?!)")
    marked = [{**turn, "content": _mark(turn["content"], pattern)} for turn in turns]
    text = tokenizer.apply_chat_template(
        marked, chat_template=template, tokenize=False, add_generation_prompt=generation_prompt
    )
    pieces = re.split(f"{BEGIN}({pattern.pattern}){END}|[{BEGIN}{END}]", str(text))
    ids: list[int] = []
    for place, piece in enumerate(pieces):
        if not piece:  # "", or None in the place of a lone mark
            continue
        ids += _encode_piece(tokenizer, piece, place, spelt_out=place % 2 == 1)
    return ids


def control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """Return special tokens, and other added ones that the template writes; longest first."""
    found = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content in template and not token.content.isspace())
    ]
    return sorted(found, key=len, reverse=True)


def _mark(text: str, pattern: re.Pattern[str]) -> str:
    plain = text.replace(BEGIN, "").replace(END, "")
    return pattern.sub(lambda found: f"{BEGIN}{found[0]}{END}", plain)


def _encode_piece(
    tokenizer: PreTrainedTokenizerBase, piece: str, place: int, spelt_out: bool
) -> list[int]:
    """Return the ids of one piece; behind the first, without the space that may begin a text."""

    def ids_of(text: str) -> list[int]:
        return list(
            tokenizer(text, add_special_tokens=False, split_special_tokens=spelt_out).input_ids
        )

    newline, ids = ids_of("\n"), ids_of(piece if place == 0 else "\n" + piece)
    if place:
        ids = ids[len(newline) :] if ids[: len(newline)] == newline else ids_of(piece)
    if spelt_out and tokenizer.convert_tokens_to_ids(piece) in ids:
        raise DataError(
            f"a turn of a chat must not hold {piece!r}: this tokenizer makes a control token of it "
            "wherever it stands; take it out, or install a newer transformers."
        )
    return ids
