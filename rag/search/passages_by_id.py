"""Passages by id, as an answer cites them, for a principal that asks to see them.

Which passages an answer cites, `plumbrule/grounding/citations.py` reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.errors import DataError
from plumbrule.protocols import Passage
from rag.access import Principal, readable
from rag.corpus import Corpus


def cited_passages(ids: Sequence[str], corpus: Corpus, principal: Principal) -> list[Passage]:
    """Return the passages of some ids, in order, with score 0.

    Raises: DataError: an id that is not there, or is not the principal's to read; the message is
        the same for both.
    """
    may_read = readable(corpus.rules, principal)
    found = []
    for name in ids:
        row = corpus.by_id.get(name)
        if row is None or not may_read[row]:
            raise DataError(
                f"no passage has the id {name!r} among those that may be read here; check the id."
            )
        found.append(corpus.passage(row, 0.0))
    return found
