"""Other projects' data formats, read into our records; the only place that knows them.

Each module of this folder is one format: the columns of its rows, how a row becomes a record, and a
small example, entered into the table of `registry.py`. A new one is a module and its name below. A
plug-in calls `register` instead.
"""

from plumbrule.data.readers import (
    bbq,
    bold,
    halueval,
    hh_rlhf,
    jsonl,
    multiple_choice,
    open_answers,
    perplexity,
    truthfulqa,
)
from plumbrule.data.readers.preference_sets import (
    arena,
    helpsteer,
    nectar,
    oasst1,
    pku_saferlhf,
    shp,
    tldr,
    webgpt,
)
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
from plumbrule.data.readers.reward_benchmarks import judge_pairs, rewardbench2, rm_bench

__all__ = [
    "FORMATS",
    "READERS",
    "SourceRow",
    "arena",
    "bbq",
    "bold",
    "brings_own_split",
    "checked",
    "halueval",
    "has_reader",
    "helpsteer",
    "hh_rlhf",
    "jsonl",
    "judge_pairs",
    "multiple_choice",
    "nectar",
    "oasst1",
    "open_answers",
    "perplexity",
    "pku_saferlhf",
    "read",
    "register",
    "rewardbench2",
    "rm_bench",
    "shp",
    "source_digest",
    "tldr",
    "truthfulqa",
    "webgpt",
]
