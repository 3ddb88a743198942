"""What a principal may know of a corpus in numbers: of what it may read alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from rag.access import Principal, readable
from rag.corpus import Corpus
from rag.filters import Filter


def num_passing(wanted: Filter | None, corpus: Corpus, principal: Principal) -> int:
    """Return how many passages a search with the filter may find."""
    may_read = readable(corpus.rules, principal)
    if wanted is not None:
        may_read = may_read & corpus.columns.passing(wanted)
    return int(np.count_nonzero(may_read))


def describe(corpus: Corpus, principal: Principal) -> dict[str, Any]:
    """Return the number of passages and of documents, and the names of fields to filter by."""
    may_read = readable(corpus.rules, principal)
    rows = np.flatnonzero(may_read).tolist()
    return {
        "passages": len(rows),
        "documents": len({corpus.chunks[row].document for row in rows}),
        "fields": corpus.columns.fields(may_read),
    }
