"""What stands before a chunk when it is indexed, so that a slice says what it is about.

A header is made of fields of the chunk, one a line: its title, its section, or a key of its
metadata such as a `context` that a model wrote for it. It is encoded and searched by keyword; it is
not part of the passage that is returned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plumbrule.config import require_choice
from rag.chunks import Chunk
from rag.columns import Columns
from rag.filters import FIELDS, METADATA

SEPARATOR = "\n"


def searched_texts(chunks: Sequence[Chunk], header: Sequence[str]) -> list[str]:
    """Return the text of each chunk that is encoded and indexed; a field that it lacks is left out.

    Args: header: names of fields, as filters name them.
    Raises: ConfigError: a field that no chunk has.
    """
    columns = Columns(chunks)
    for name in header:
        if name not in FIELDS and not columns.column(name).present.any():
            every = columns.fields(np.ones(len(chunks), dtype=bool))
            require_choice("a field of rag.header", name, every)
    return [SEPARATOR.join([*_lines(chunk, header), chunk.text]) for chunk in chunks]


def _lines(chunk: Chunk, header: Sequence[str]) -> list[str]:
    found = []
    for name in header:
        own = name in FIELDS
        value = getattr(chunk, name) if own else chunk.metadata.get(name.removeprefix(METADATA))
        if value not in (None, "", []):
            found.append(", ".join(value) if isinstance(value, list) else str(value))
    return found
