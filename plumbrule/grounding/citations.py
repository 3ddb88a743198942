"""Whether the passages that an answer cites say what it says: precision, recall, support.

A citation is `[n]`, the number of a passage that was shown, from 1. It belongs to the sentence that
it stands in, or directly behind on the same line; those of a line that holds nothing else belong to
the sentence before. The number of a list's item at the start of a line ("1.") is no claim.

The three measures are those of ALCE (Gao et al. 2023, arXiv:2305.14627, section 3), with the
lexical measure of `support.py` in place of an entailment model: a passage supports a sentence where
it holds at least `SUPPORTED` of its content words. That reads no meaning; what the measure is worth
is measured by stage `eval_support`.

    recall      share of the sentences that their cited passages support together; a sentence
                without a citation is not supported
    precision   share of the citations that name a passage shown, stand in a supported sentence, and
                are needed: the passage supports it alone, or the others do not without it
    support     share of the answer's content words that stand in a passage cited in their sentence

Sentences without a content word ("Yes [1].") claim nothing that could be checked: they and their
citations are not counted, but for citations of a passage that was not shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from plumbrule.grounding.support import content_words, sentences

CITATION = re.compile(r"\[(\d{1,9})\]")
_SOME = r"(?:[^\S\n]*\[\d{1,9}\])+"
"""Citations one behind the other, on one line."""
_LINE_OF_CITATIONS = re.compile(rf"\s*\n({_SOME})[^\S\n]*(?=\n|$)")
_LIST_NUMBER = re.compile(rf"^[^\S\n]*\d{{1,3}}[.)](?=(?:{_SOME})?[^\S\n]+[^\s\[])", re.MULTILINE)
_BEHIND_THE_END = re.compile(rf"([.!?]+)({_SOME})")
_WITH_BLANKS = re.compile(r"\s*\[\d{1,9}\]")
SUPPORTED = 0.5
"""Share of a sentence's content words, as `eval_support.threshold` by default."""


class Citations(NamedTuple):
    """Of one answer, each in [0, 1]; None where nothing can be counted."""

    precision: float | None
    """None: it cites nothing, or only passages that were shown, in sentences that claim nothing."""
    recall: float | None
    """None: no sentence has a content word."""
    support: float | None
    """None: it has no content word."""
    num_citations: int
    """Each once in a sentence."""
    num_not_shown: int
    """Of those, such as name no passage that was shown."""


class CitingSentence(NamedTuple):
    """A sentence of an answer."""

    words: list[str]
    """Its content words, without the numbers of citations."""
    cited: list[int]
    """Passages by number, each once."""


def claims(text: str) -> Iterator[CitingSentence]:
    """Yield the sentences of an answer with what each cites."""
    text = _LIST_NUMBER.sub("", _LINE_OF_CITATIONS.sub(r" \1", text))
    text = _BEHIND_THE_END.sub(r"\2\1", text)  # `so. [1]` as `so [1].`
    for start, end in sentences(text):
        sentence = text[start:end]
        cited = dict.fromkeys(int(number) for number in CITATION.findall(sentence))
        yield CitingSentence(content_words(CITATION.sub(" ", sentence)), list(cited))


def without_citations(text: str) -> str:
    """Return an answer without its `[n]`."""
    return " ".join(_WITH_BLANKS.sub("", text).split())


def score_citations(text: str, passages: Sequence[str], threshold: float = SUPPORTED) -> Citations:
    """Return the three measures of an answer.

    Args: passages: that it was shown, in the order of their numbers. threshold: share of a
    sentence's content words from which on passages support it.
    """
    known = [frozenset(content_words(passage)) for passage in passages]
    precise, supported, held = [], [], []
    num_citations = num_not_shown = 0
    for claim in claims(text):
        shown = [known[n - 1] for n in claim.cited if 1 <= n <= len(known)]
        absent = len(claim.cited) - len(shown)
        num_citations += len(claim.cited)
        num_not_shown += absent
        precise += [False] * absent
        if not claim.words:
            continue
        together = _share(claim.words, shown)
        supported.append(together >= threshold and bool(shown))
        held += [any(word in own for own in shown) for word in claim.words]
        for place, own in enumerate(shown):
            others = shown[:place] + shown[place + 1 :]
            needed = _share(claim.words, [own]) >= threshold or (
                _share(claim.words, others) < threshold
            )
            precise.append(supported[-1] and needed)
    return Citations(_mean(precise), _mean(supported), _mean(held), num_citations, num_not_shown)


def _share(words: Sequence[str], known: Sequence[frozenset[str]]) -> float:
    """Return the share of the words that stand in any of the passages."""
    return sum(any(word in own for own in known) for word in words) / len(words)


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
