"""What takes a judge's verdict back in the text that follows it. No torch here.

A reply that can be read either way is a failure, which is counted, and never the wrong verdict.
"""

from __future__ import annotations

import re

TURNING = re.compile(
    r"n['\u2019]t\b|\b(?:not|no|non|never|neither|nor|none|nothing|cannot|worse|worst|wrong|"
    r"incorrect|inferior|loses|loser|rejected|ties?|tied|equal|equally|both|either)\b",
    re.IGNORECASE,
)
"""What can turn a verdict round, or make it none."""
REASON = r"\s+(?:because|as|since|for)\b"
"""How a reply begins to explain its verdict in the same sentence."""
_CLAUSE = re.compile(r"(?:(?!\s[-\u2013\u2014]\s|" + REASON + r")[^.,;:!?(\n])*")
_MARKUP = " \t*_`\"')]"
_PREDICATE = re.compile(
    r"(?:is|was|are|were|seems?|looks|would|could|can|may|might|should|must|will|does|do|has|"
    r"feels?|cannot|overstates|understates)\b|\w+n['\u2019]t\b",
    re.IGNORECASE,
)


def is_taken_back(rest: str, denies: bool = False) -> bool:
    """Return whether the clause in which a verdict stands goes on against it, or might.

    "is wrong" behind `Yes` and "is too high" behind `4` say something of the verdict and not of
    what was judged; so does "is right", but what else is said so can't be told from its first
    words. Any other clause takes it back where it holds a word that turns a verdict round. What
    stands behind a comma, a full stop, a dash or "because" explains it, and may say "not" of what
    was judged.

    Args: rest: what follows the verdict. denies: whether the verdict is itself a denial (`No`):
    "it is not" agrees with it.
    """
    found = _CLAUSE.match(rest)
    clause = found[0].lstrip(_MARKUP) if found else ""
    return bool(_PREDICATE.match(clause)) or (not denies and bool(TURNING.search(clause)))
