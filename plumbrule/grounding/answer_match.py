"""How an answer agrees with its references: exact match and F1 as SQuAD's.

Rajpurkar et al. 2016 (arXiv:1606.05250): lower case, without punctuation and the articles a, an,
the, single-spaced; F1 counts words with their number, and the best reference counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Return a text as SQuAD's script compares it."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(text: str, references: Sequence[str]) -> int:
    """Return 1 where the text is one of the references, normalised, else 0."""
    return int(normalise_answer(text) in {normalise_answer(r) for r in references})


def word_f1(text: str, references: Sequence[str]) -> float:
    """Return the best F1 of words with a reference, in [0, 1]; two empty texts are alike."""
    return max(_f1(normalise_answer(text).split(), normalise_answer(r).split()) for r in references)


def _f1(words: Sequence[str], reference: Sequence[str]) -> float:
    if not words or not reference:
        return float(list(words) == list(reference))
    common = sum((Counter(words) & Counter(reference)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def contains(text: str, references: Sequence[str]) -> int:
    """Return 1 where a reference's words stand in the text, in their order, else 0."""
    padded = f" {normalise_answer(text)} "
    plain = [normalise_answer(reference) for reference in references]
    return int(any(f" {reference} " in padded for reference in plain if reference))
