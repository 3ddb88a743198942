"""What stages hand each other besides artifacts: small data and protocols.

Stages never import one another. Where PPO needs retrieval or eval needs a reward model, it gets one
of these from its inputs (`plumbrule/inputs.py`); only the table of stages knows who made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from plumbrule.data.records import Prompt


class Passage(NamedTuple):
    """A chunk of a document, as retrieval found it; start and end are character offsets in it."""

    id: str
    text: str
    score: float
    document: str
    start: int
    end: int


class Episode(NamedTuple):
    """One response to one prompt, as a reward judges it.

    finished: the response ended with its terminal token. response: text without that token.
    """

    prompt: Prompt
    passages: tuple[str, ...]
    response: str
    finished: bool


class Retriever(Protocol):
    """A frozen document store that can be asked."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return up to k passages per query, best first."""


class PassageIndex(Protocol):
    """What an index artifact is opened as."""

    def retriever(self, method: str) -> Retriever:
        """Return the retriever that ranks passages by `method`."""


class Scorer(Protocol):
    """A reward: a learned model, the gold utility, a rule."""

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return `score` (n,) float64 and, beside it, every term of which it is the sum."""
