"""How a response came about in turns, as JSON keeps it."""

from __future__ import annotations

from typing import Any

from plumbrule.data.records import DemonstratedSearch
from plumbrule.lm.config import SearchConfig
from plumbrule.lm.search_calls.calls import first_call
from plumbrule.protocols import SearchCall, Searching


def from_json(row: list[Any]) -> Searching:
    """Return what JSON made a list of."""
    turns, calls, malformed, unanswered = row
    shown = tuple(SearchCall(query, tuple(passages)) for query, passages in calls)
    return Searching(tuple(turns), shown, malformed, unanswered)


def as_demonstrated(searching: Searching, search: SearchConfig) -> list[DemonstratedSearch] | None:
    """Return the turns that end with a call as a demonstration holds them.

    None where a call did not work: a marker stands alone, a call has no query, or was not answered.
    """
    if searching.malformed or searching.unanswered:
        return None
    found = []
    for turn, answer in zip(searching.turns, searching.calls, strict=False):
        call = first_call(turn, search)
        assert call is not None  # else it would not have been answered
        before = turn[: turn.rfind(search.open, 0, call.end)].strip()
        found.append(DemonstratedSearch(answer.query, answer.passages, before))
    return found
