"""Queries written anew before the search, and one ranking made of what all of them find.

A `Rewriter` turns each query into several; a model writes them. What each finds is fused by
reciprocal rank (`rag/index/ranking.py`), because scores of different wordings don't compare.

    Rephrased            a model words the query as a search query, which is searched for in its
                         place (Ma et al. 2023, arXiv:2305.14283)
    HypotheticalAnswers  a model answers, and the answer is searched for beside the question
                         (HyDE: Gao et al. 2022, arXiv:2212.10496)
    Wordings             a model asks the same in other words
    SubQuestions         a model takes the question apart
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from plumbrule.config import require_range
from rag.index.protocol import Hits, SearchIndex, Selection
from rag.index.ranking import POOL, fuse_ranks
from rag.search.models import Answer

LIST_MARK = re.compile(r"^\s*(?:\d+[.)]|[-*•])?\s*")


class Rewriter(Protocol):
    """Writes queries anew. An entry of `REWRITERS` makes one of (answer, number of texts)."""

    def rewrite(self, queries: Sequence[str]) -> list[list[str]]:
        """Return what is searched for each query; at least one text."""


@dataclass(frozen=True)
class Rephrased:
    """What a model would type to search for the query; the query itself where it says nothing."""

    answer: Answer
    number: int = 1
    """Not read, since one text is written; every entry of `REWRITERS` is given it."""

    def rewrite(self, queries: Sequence[str]) -> list[list[str]]:
        """Return [search query] for each query."""
        prompts = [f"Write a search query for the question.\n\n{q}\n\nQuery:" for q in queries]
        answers = self.answer(prompts)
        return [[a if a.strip() else q] for q, a in zip(queries, answers, strict=True)]


@dataclass(frozen=True)
class HypotheticalAnswers:
    """The query, and a passage that a model writes as if it answered it."""

    answer: Answer
    number: int = 1
    """Not read, since one text is written; every entry of `REWRITERS` is given it."""

    def rewrite(self, queries: Sequence[str]) -> list[list[str]]:
        """Return [query, made-up answer] for each query."""
        prompts = [f"Write a short passage that answers the question.\n\n{q}\n\n" for q in queries]
        return [_distinct(q, [a]) for q, a in zip(queries, self.answer(prompts), strict=True)]


@dataclass(frozen=True)
class Wordings:
    """The query, and `number` other wordings of it."""

    answer: Answer
    number: int = 3

    def __post_init__(self) -> None:
        require_range("rewriting.number", self.number, 1, unit="wordings")

    def rewrite(self, queries: Sequence[str]) -> list[list[str]]:
        """Return the query and its wordings, for each query."""
        ask = f"Ask the question in {self.number} other ways, one a line."
        return _lines(queries, self.answer([f"{ask}\n\n{q}\n\n" for q in queries]), self.number)


@dataclass(frozen=True)
class SubQuestions:
    """The query, and up to `number` simpler questions that it is made of."""

    answer: Answer
    number: int = 4

    def __post_init__(self) -> None:
        require_range("rewriting.number", self.number, 1, unit="questions")

    def rewrite(self, queries: Sequence[str]) -> list[list[str]]:
        """Return the query and its parts, for each query."""
        ask = f"Split the question into at most {self.number} simpler ones, one a line."
        return _lines(queries, self.answer([f"{ask}\n\n{q}\n\n" for q in queries]), self.number)


@dataclass(frozen=True)
class RewritingIndex:
    """A `SearchIndex` of texts that searches for what a rewriter makes of each query."""

    index: SearchIndex[Sequence[str]]
    rewriter: Rewriter

    def search(
        self, queries: Sequence[str], depth: int, selection: Selection | None = None
    ) -> list[Hits]:
        """Return the `depth` best passages of each query's wordings, fused by rank."""
        written = self.rewriter.rewrite(queries)
        every = list(dict.fromkeys(text for texts in written for text in texts))
        pool = max(POOL, depth)
        found = dict(zip(every, self.index.search(every, pool, selection), strict=True))
        return [fuse_ranks([found[text] for text in texts], depth) for texts in written]


def _lines(queries: Sequence[str], answers: Sequence[str], number: int) -> list[list[str]]:
    found = []
    for query, answer in zip(queries, answers, strict=True):
        lines = [LIST_MARK.sub("", line).strip() for line in answer.splitlines()]
        found.append(_distinct(query, [line for line in lines if line][:number]))
    return found


def _distinct(query: str, others: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([query, *(other for other in others if other.strip())]))
