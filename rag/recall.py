"""How well an index finds the documents that hold the answers.

A document may carry questions that it answers: `meta["questions"]`, a list of texts. Such a
question is found at rank r if the r-th passage is the first that comes from its document. Recall@k
is the share found within k passages; MRR is the mean of 1 / r within `DEPTH` passages, 0 where none
is. Passages of other documents that happen to state the same answer don't count, so these are lower
bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plumbrule.data.records import Document
from plumbrule.errors import DataError
from plumbrule.protocols import Passage, Retriever

DEPTH = 10
"""Passages asked for; MRR counts no further."""
CUTS = (1, 5)
"""The k of recall@k."""


class RecallQuery(NamedTuple):
    """A question and the id of the document that answers it."""

    text: str
    document: str


def questions_of(documents: Sequence[Document]) -> list[RecallQuery]:
    """Return the questions that the documents carry, in order.

    Raises: DataError: `questions` is not a list of texts.
    """
    found = []
    for document in documents:
        carried = document.meta.get("questions", [])
        if not isinstance(carried, list) or not all(isinstance(one, str) for one in carried):
            raise DataError(
                f"document {document.id!r}: meta.questions must be a list of texts; correct it or "
                "remove it.",
                text=str(carried),
            )
        found += [RecallQuery(text, document.id) for text in carried]
    return found


def evenly_spaced(questions: Sequence[RecallQuery], number: int) -> list[RecallQuery]:
    """Return at most `number` questions, evenly spread over all."""
    if len(questions) <= number:
        return list(questions)
    return [questions[i * len(questions) // number] for i in range(number)]


def measure(retriever: Retriever, questions: Sequence[RecallQuery]) -> dict[str, float]:
    """Return recall_at_1, recall_at_5 and mrr of a retriever on at least one question."""
    found = retriever.search([question.text for question in questions], DEPTH)
    ranks = [rank_of(q.document, passages) for q, passages in zip(questions, found, strict=True)]
    return scores_of(np.array(ranks))


def rank_of(document: str, passages: Sequence[Passage]) -> float:
    """Return the rank, from 1, of the first passage from `document`; infinity where none is."""
    ranks = (rank for rank, passage in enumerate(passages, 1) if passage.document == document)
    return next(ranks, np.inf)


def scores_of(ranks: np.ndarray) -> dict[str, float]:
    """Return recall_at_<k> and mrr of ranks (n,) float, infinite where nothing was found."""
    scores = {f"recall_at_{k}": float(np.mean(ranks <= k)) for k in CUTS}
    return scores | {"mrr": float(np.mean(np.where(ranks <= DEPTH, 1.0 / ranks, 0.0)))}
