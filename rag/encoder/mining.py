"""What a contrastive step learns from: a question, the chunk that answers it, and hard negatives.

The answer is the chunk of the question's document that is nearest to it. Hard negatives are the
chunks of other documents that the encoder ranks highest, without those that it ranks about as high
as the answer or higher: they may answer the question too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rag.index.exact import ExactIndex


class Example(NamedTuple):
    """A question with rows of chunks."""

    question: str
    answer: int
    negatives: tuple[int, ...]


class Mined(NamedTuple):
    """Examples, and how many of their negatives were drawn at random."""

    examples: list[Example]
    num_drawn: int


def mine(
    questions: Sequence[str],
    documents: Sequence[str],
    asked: np.ndarray,
    vectors: np.ndarray,
    rows_of: Mapping[str, Sequence[int]],
    *,
    number: int,
    depth: int,
    margin: float,
    draw: np.random.Generator,
) -> Mined:
    """Return an example of each question, with `number` negatives or as many as there are.

    Args: documents: that answers each question. asked: (q, d) and vectors: (n, d) float32 of unit
        length, of questions and of chunks. rows_of: document -> its rows. depth: ranks among which
        negatives are looked for. margin: by which a negative's cosine must be below the answer's.
        draw: of negatives where too few are found.
    """
    index = ExactIndex([vectors])
    nearest = index.search(asked, min(depth, len(vectors)))
    examples, num_drawn = [], 0
    for question, document, vector, hits in zip(questions, documents, asked, nearest, strict=True):
        own = np.array(rows_of[document])
        cosines = vectors[own] @ vector
        answer = int(own[np.argmax(cosines)])
        fits = (hits.scores < cosines.max() - margin) & ~np.isin(hits.rows, own)
        chosen = hits.rows[fits][:number].tolist()
        others = len(vectors) - len(own)
        lacking = min(number, others) - len(chosen)
        if lacking > 0:
            left = np.setdiff1d(np.arange(len(vectors)), np.concatenate([own, chosen]))
            chosen += draw.choice(left, min(lacking, len(left)), replace=False).tolist()
            num_drawn += min(lacking, len(left))
        examples.append(Example(question, answer, tuple(int(row) for row in chosen)))
    fewest = min((len(one.negatives) for one in examples), default=0)
    alike = [one._replace(negatives=one.negatives[:fewest]) for one in examples]
    return Mined(alike, num_drawn)
