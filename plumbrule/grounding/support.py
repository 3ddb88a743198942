"""How far a text is supported by its evidence: a lexical measure, which calls itself one.

The support of a sentence is the share of its content words (no function words, cut to their stems'
first letters) that stand in the evidence; that of a text is the mean over its words. It reads no
meaning: "Ada wrote it" is as much supported by "Bea wrote Ada" as by the opposite. What it is worth
is measured on responses that people labelled (`eval/support/stage.py`).

Numbers count as words, and one that the evidence lacks is never supported by a similar one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

WORD = re.compile(r"\w+(?:['\u2019]\w+)?")
STEM_LETTERS = 6
_FUNCTION_WORDS = """
a about all also am an and any are as at be been being both but by can could did do does
don't each for from had has have he her here him his how i i'm if in into is it it's its
just may me might more most must my no nor not of on only or other our over own s same
shall she should so some such t than that the their them then there these they this
those to too under us very was we well were what when where which who whom whose why
will with would yes you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


class Sentence(NamedTuple):
    """A sentence of a text, with its place in it. support: None where it has no content word."""

    start: int
    end: int
    support: float | None


def content_words(text: str) -> list[str]:
    """Return the content words of a text, in lower case, cut to `STEM_LETTERS` letters."""
    words = (hit.group().lower() for hit in WORD.finditer(text))
    return [w if w.isdigit() else w[:STEM_LETTERS] for w in words if w not in FUNCTION_WORDS]


def support(text: str, evidence: str) -> float:
    """Return the share of a text's content words that the evidence holds; 1 where it has none."""
    words, known = content_words(text), set(content_words(evidence))
    return sum(word in known for word in words) / len(words) if words else 1.0


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sentence: up to `.`, `!` or `?` before a space, or a line's end.

    A sentence begins behind the space before it.
    """
    start = 0
    for hit in re.finditer(r"[.!?]+(?=\s|$)|\n+|$", text):
        end = hit.end() if hit.group().strip() else hit.start()
        if text[start:end].strip():
            lead = len(text[start:end]) - len(text[start:end].lstrip())
            yield start + lead, end
        start = hit.end()


def by_sentence(text: str, evidence: str) -> list[Sentence]:
    """Return the sentences of a text with the support of each."""
    known = set(content_words(evidence))
    found = []
    for start, end in sentences(text):
        words = content_words(text[start:end])
        share = sum(word in known for word in words) / len(words) if words else None
        found.append(Sentence(start, end, share))
    return found


def unsupported_spans(text: str, evidence: str, threshold: float) -> list[tuple[int, int]]:
    """Return (start, end) of the sentences whose support is below the threshold."""
    return [
        (one.start, one.end)
        for one in by_sentence(text, evidence)
        if one.support is not None and one.support < threshold
    ]
