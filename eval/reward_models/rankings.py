"""Rankings as a reward model is tested on them: which answers, in which groups, by which rule.

The reader of a benchmark's format says in a ranking's `meta` how it is scored:

    protocol   best_of: the best answer must score above all others (RewardBench 2)
               ties: several right answers of one question (RewardBench 2's subset)
               styles: three right and three wrong answers, concise, detailed and with markdown
               (RM-Bench); `styles` holds the place of each
               without one: every pair of answers of different rank
    subset     the part of the set that it belongs to
    in_order   the answers stand in the order in which somebody was shown them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from plumbrule.data.records import Preference
from plumbrule.lm.randomness import row_key

BEST_OF, TIES, STYLES, PAIRS = "best_of", "ties", "styles", "pairs"
PROTOCOLS = (BEST_OF, TIES, STYLES, PAIRS)


class Tested(NamedTuple):
    """A ranking of a set. group: what resampling keeps together, the prompt."""

    set: str
    preference: Preference
    group: str

    @property
    def protocol(self) -> str:
        """How it is scored."""
        return str(self.preference.meta.get("protocol", PAIRS))

    @property
    def subset(self) -> str:
        """The part of the set that it belongs to; "" where it names none."""
        return str(self.preference.meta.get("subset", ""))

    def first(self, seed: int) -> int:
        """Return which answer stands first: the file's, or one drawn where the file's order tells
        the better one.
        """
        if self.preference.meta.get("in_order"):
            return 0
        return row_key("first answer", seed, self.preference.id) % len(self.preference.responses)


def rankings_of(name: str, preferences: Sequence[Preference]) -> list[Tested]:
    """Return the rankings of a set, numbered by their prompts."""
    numbers: dict[Any, int] = {}
    return [
        Tested(name, one, f"{name}:{numbers.setdefault(one.messages, len(numbers))}")
        for one in preferences
    ]
