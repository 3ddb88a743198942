"""Other projects' data formats, read into our records; the only place that knows them.

Each module of this folder is one format: the columns of its rows, how a row becomes a record, and a
small example, entered into the table of `registry.py`. A new one is a module and its name below. A
plug-in calls `register` instead.
"""

from plumbrule.data.readers import bold, halueval, hh_rlhf, jsonl
from plumbrule.data.readers.registry import (
    FORMATS,
    READERS,
    SourceRow,
    brings_own_split,
    checked,
    has_reader,
    read,
    register,
    source_digest,
)

__all__ = [
    "FORMATS",
    "READERS",
    "SourceRow",
    "bold",
    "brings_own_split",
    "checked",
    "halueval",
    "has_reader",
    "hh_rlhf",
    "jsonl",
    "read",
    "register",
    "source_digest",
]
