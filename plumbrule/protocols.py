"""What stages hand each other besides artifacts: small data and protocols.

Stages never import one another. Where PPO needs retrieval or eval needs a reward model, it gets one
of these from its inputs (`plumbrule/inputs.py`); only the table of stages knows who made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
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


class SearchCall(NamedTuple):
    """A search that a policy asked for."""

    query: str
    passages: tuple[str, ...]
    """That it was shown, in that order; () where none was found or fitted."""


class Searching(NamedTuple):
    """How a response came about in turns of a policy that may search.

    turns: what the policy wrote in each, calls included and answers to them not. calls: those
    between two turns. malformed: markers that are no part of a call, and calls without a query.
    unanswered: calls that came after the last turn or token that an episode may have.
    """

    turns: tuple[str, ...]
    calls: tuple[SearchCall, ...]
    malformed: int
    unanswered: int

    @property
    def passages(self) -> tuple[str, ...]:
        """All that the calls found, in order."""
        return tuple(passage for call in self.calls for passage in call.passages)


class Episode(NamedTuple):
    """One response to one prompt, as a reward judges it.

    finished: the response ended with its terminal token. response: text without that token; of a
    policy that may search, its last turn. passages: all that it was shown, in the order of their
    numbers. searching: None where the policy can't search.
    """

    prompt: Prompt
    passages: tuple[str, ...]
    response: str
    finished: bool
    searching: Searching | None = None


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


class ProgressLine(Protocol):
    """How far a stage is."""

    def skip(self, n: int) -> None:
        """Count `n` units of work as done before this process began."""

    def advance(self, n: int = 1, **shown: float | str) -> None:
        """Count `n` more units; `shown` numbers stand at the end of the line."""


class Tracker(Protocol):
    """What a stage may do with its metrics; who keeps them is the pipeline's affair."""

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Record numbers of one update (optimizer step, PPO update or item count)."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table of samples."""

    def progress(self, total: int, what: str, unit: str) -> AbstractContextManager[ProgressLine]:
        """Show how far `total` units are, with rate and ETA, while the context lasts."""

    def rewind(self, update: int) -> None:
        """Forget rows of updates after `update`: a resumed stage will log them again."""

    def say(self, text: str) -> None:
        """Show the user a line."""
