"""What a contrastive step learns from: a question, the chunk that answers it, and hard negatives.

The answer is the chunk of the question's document that is nearest to it. Hard negatives are the
chunks of other documents that the encoder ranks highest, without those that it ranks about as high
as the answer or higher: they may answer the question too. Such a one becomes a negative only where
there are no others, those of lowest cosine first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rag.index.exact import ExactIndex


class MinedQuestion(NamedTuple):
    """A question with rows of chunks."""

    question: str
    answer: int
    negatives: tuple[int, ...]


class Mined(NamedTuple):
    """Examples, and how many of their negatives were not among the ranks that were looked at."""

    examples: list[MinedQuestion]
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
    examples, ranked = [], []
    for question, document, vector, hits in zip(questions, documents, asked, nearest, strict=True):
        own = np.array(rows_of[document])
        cosines = vectors[own] @ vector
        answer = int(own[np.argmax(cosines)])
        limit = float(cosines.max()) - margin
        fits = (hits.scores < limit) & ~np.isin(hits.rows, own)
        chosen = hits.rows[fits][:number].tolist()
        ranked.append(len(chosen))
        if len(chosen) < number:
            left = np.setdiff1d(np.arange(len(vectors)), np.concatenate([own, chosen]))
            chosen += _drawn(left, vectors[left] @ vector, number - len(chosen), limit, draw)
        examples.append(MinedQuestion(question, answer, tuple(int(row) for row in chosen)))
    fewest = min((len(one.negatives) for one in examples), default=0)
    alike = [one._replace(negatives=one.negatives[:fewest]) for one in examples]
    return Mined(alike, sum(max(fewest - highest, 0) for highest in ranked))


def _drawn(
    left: np.ndarray, cosines: np.ndarray, number: int, limit: float, draw: np.random.Generator
) -> list[int]:
    """Return up to `number` of some rows (m,): drawn among those with a cosine below the limit, and
    the lowest of the others where these are too few.
    """
    fits = cosines < limit
    among = left[fits]
    chosen = draw.choice(among, min(number, len(among)), replace=False).tolist()
    near = left[~fits][np.argsort(cosines[~fits], kind="stable")]
    return chosen + near[: number - len(chosen)].tolist()
