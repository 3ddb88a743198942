"""What a comparison of two evaluations pairs, and the file in which the eval stage says so.

Apart from `benchmark.py`, so that the stage `compare` can read it and reach no benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from eval.intervals import Row
from plumbrule.store.file_names import ITEMS


def items_file(benchmark: str) -> str:
    """Return the name of the item rows of a benchmark, in an eval artifact."""
    return f"{ITEMS}/{benchmark}.jsonl"


@dataclass(frozen=True)
class Quantity:
    """A column to be paired, over the rows whose `only` columns have these values."""

    name: str
    """Of the metric, such as `gold_gain`."""
    column: str
    only: Mapping[str, str] = field(default_factory=dict)
    better: int = 0
    """1 where a rise is an improvement, -1 where a fall is, 0 where neither is."""
    wins: str = ""
    """Name of the win rate: the share of items of which the policy's number is the better one, a
    tie as one half; "": it is not counted."""
    conditions: Sequence[str] = ()
    """Under which rows have it; the eval stage fills it in."""

    def stands_for(self, row: Row) -> bool:
        """Return whether a row is one of those that are paired."""
        chosen = all(row.get(name) == value for name, value in self.only.items())
        return chosen and self.column in row


def with_conditions(quantities: Sequence[Quantity], rows: Sequence[Row]) -> list[Quantity]:
    """Return the quantities that some row has, each with its conditions, in the rows' order."""
    found = []
    for one in quantities:
        conditions = dict.fromkeys(row["condition"] for row in rows if one.stands_for(row))
        if conditions:
            found.append(replace(one, conditions=list(conditions)))
    return found
