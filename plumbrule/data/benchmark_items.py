"""What the rows of a benchmark hold, as far as reading and preparing them needs to know.

A benchmark is declared in `eval/benchmarks/`, which no stage but eval may import. What the data
stage must know of one is this declaration alone; whoever composes a run puts it into the config of
the data node, so that it is hashed with it, and a new benchmark changes no other node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import require
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import DataError, listed

BENCHMARK = "benchmark"
"""What the row schemas and readers call the role of any benchmark."""


@dataclass
class ItemFormat:
    """The format of a benchmark's items, a part of a data node's config."""

    tasks: dict[str, list[str]] = field(default_factory=dict)
    """Task -> the fields that each of its items must have; an item may have others."""
    meta: list[str] = field(default_factory=list)
    """Entries of `meta` that each item must have."""
    counted_by: list[str] = field(default_factory=list)
    """Entries of `meta` that make the group of which a limit keeps so many; none: the task."""
    source: str = ""
    """Digest of the plug-in's file that declares the benchmark; "" for one of ours."""

    def __post_init__(self) -> None:
        require(bool(self.tasks), "tasks of a benchmark", self.tasks, "name one", "add a task")

    def check(self, item: BenchmarkItem) -> None:
        """Raise DataError unless the item is of one of the tasks and has all that it must have."""
        if item.task not in self.tasks:
            raise DataError(f"task (={item.task!r:.80}) must be one of {', '.join(self.tasks)}.")
        for kind, needed, given in (
            ("fields", self.tasks[item.task], item.fields),
            ("meta", self.meta, item.meta),
        ):
            missing = [name for name in needed if name not in given]
            if missing:
                raise DataError(
                    f"{kind} ({listed(sorted(given)) or 'none'}) of an item of task {item.task} "
                    f"must hold {', '.join(missing)}; repair the row."
                )

    def group(self, item: BenchmarkItem) -> str:
        """Return the group that a limit counts an item in."""
        named = [str(item.meta[name]) for name in self.counted_by if name in item.meta]
        return "/".join(named) or item.task
