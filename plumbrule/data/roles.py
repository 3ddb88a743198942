"""What a record may stand in for: a ranking holds a demonstration, and that holds a prompt.

One source can thus feed every role of an experiment. A `Preference` gives a `Demonstration` (its
best response; the first of several equal ones), a `Demonstration` gives a `Prompt`, and whatever
holds a response gives a row of corpus: the chat written out as text, in the form that the base
model's tokenizer and chat template share.
"""

from __future__ import annotations

from typing import Any

from plumbrule.data.records import Demonstration, Message, Preference, Prompt, Record
from plumbrule.data.splits import break_special_tokens
from plumbrule.errors import DataError

Chat = Prompt | Demonstration | Preference


def chat_as_text(messages: tuple[Message, ...], response: str) -> str:
    """Return a chat as text: `<|user|> ...<|assistant|> ...<|eos|>`, with no token before it.

    Turns follow each other without a break, and a space opens each, so that words are the same
    tokens as inside a sentence. Text that looks like a special token is broken up.
    """
    turns = (*messages, Message("assistant", response))
    said = (f"<|{m.role}|> {break_special_tokens(m.content).strip()}" for m in turns)
    return "".join(said) + "<|eos|>"


def best_response(chat: Chat) -> str:
    """Return the response to learn from.

    Raises: DataError: the chat is a prompt, which has none.
    """
    match chat:
        case Preference():
            return chat.responses[chat.ranks.index(1)]
        case Demonstration():
            return chat.response
        case _:
            raise DataError("the chat has no answer; end it with an assistant turn.")


def to_role(chat: Chat, role: str) -> Record | dict[str, Any]:
    """Return the record that `role` (prompts, demonstrations, preferences, corpus) needs.

    Raises: DataError: the chat holds less than that, or breaks the record's rules.
    """
    if role == "prompts":
        return Prompt(chat.id, chat.messages, chat.meta)
    if role == "corpus":
        return {"text": chat_as_text(chat.messages, best_response(chat))}
    if role == "demonstrations":
        if isinstance(chat, Demonstration):
            return chat
        passages = () if isinstance(chat, Prompt) else chat.passages
        return Demonstration(chat.id, chat.messages, best_response(chat), passages, chat.meta)
    if not isinstance(chat, Preference):
        raise DataError("the row ranks no answers; give at least two.")
    return chat
