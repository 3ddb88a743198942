"""What two sides of a search must share: how passages were made into vectors and terms.

An index says in `fingerprint.json` what made it. Whoever loads it, or brings queries that were
encoded elsewhere, states the same of its own side; where they differ, an error names both sides and
every property in which they do. A query encoded otherwise than the passages still finds something,
only the wrong thing, and nothing else would say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumbrule.errors import ArtifactError

MOST_SHOWN = 6
"""Differences that an error lists."""


def flat_properties(nested: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Return nested properties as one level, names joined with dots."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat_properties(value, f"{head}{name}.")
        else:
            found[f"{head}{name}"] = value
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return property -> the two values, for properties that both sides state and differ in.

    An index that an earlier version made states fewer.
    """
    first, second = flat_properties(one), flat_properties(other)
    both = [name for name in first if name in second]
    return {n: (first[n], second[n]) for n in both if first[n] != second[n]}


def require_same(
    index: Mapping[str, Any], asking: Mapping[str, Any], index_is: str, asking_is: str
) -> None:
    """Raise ArtifactError, which names both sides, unless they state the same.

    Args: index, asking: properties, perhaps nested. index_is, asking_is: what the sides are.
    """
    found = differences(index, asking)
    if not found:
        return
    shown = [
        f"{name} is {one!r:.80} in the index and {other!r:.80} in {asking_is}"
        for name, (one, other) in list(found.items())[:MOST_SHOWN]
    ]
    more = f", and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    raise ArtifactError(
        f"{index_is} must be searched by what made it: {'; '.join(shown)}{more}. Build the index "
        "again, or search with what made it."
    )
