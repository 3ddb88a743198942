"""What a prompt asks for, as its `meta` says it: reference answers, gold passages.

Each is a text or a list of texts; null and an empty list are as if it were not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plumbrule.errors import DataError
from plumbrule.grounding.answer_match import normalise_answer

if TYPE_CHECKING:
    from plumbrule.data.records import Prompt


def references(prompt: Prompt) -> list[str]:
    """Return the reference answers; [] where `answer` is "": nothing can answer it.

    They are `answers`, or else `answer` and `aliases`. Texts of which SQuAD's normalisation leaves
    nothing ("The") are left out.

    Raises: DataError: there are none, or one of the three is no text and no list of texts.
    """
    meta = prompt.meta
    given = texts_of(prompt, "answers")
    if not given and meta.get("answer") == "":
        return []
    if not given and isinstance(meta.get("answer"), str):
        given = [meta["answer"], *texts_of(prompt, "aliases")]
    found = [text for text in given if normalise_answer(text)]
    if not found:
        raise DataError(
            f"prompt {prompt.id!r}: meta.answer (={meta.get('answer')!r:.80}) must be a text, "
            "or meta.answers a list of texts, with a word that is no article, for the reward terms "
            "exact_match and information_gain; leave such prompts out, or the terms."
        )
    return found


def gold_passages(prompt: Prompt) -> list[str]:
    """Return the passages that a search should find; [] for none.

    Raises: DataError: they are no text and no list of texts.
    """
    return [text for text in texts_of(prompt, "gold_passages") if text.strip()]


def texts_of(prompt: Prompt, name: str) -> list[str]:
    """Return the texts of an entry of a prompt's meta, none where it is absent, null or empty.

    Raises: DataError: it is neither a text nor a list of texts.
    """
    given = prompt.meta.get(name)
    if given is None:
        return []
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"prompt {prompt.id!r}: meta.{name} (={given!r:.80}) must be a text or a list of "
            "texts, for the reward terms exact_match and information_gain; mend the prompt."
        )
    return list(texts)


def check_answer(prompt: Prompt) -> None:
    """Raise DataError unless a prompt says how it is answered."""
    references(prompt)


def check_sought(prompt: Prompt) -> None:
    """Raise DataError unless a prompt says which passages are sought, or how it is answered."""
    if not gold_passages(prompt):
        references(prompt)
