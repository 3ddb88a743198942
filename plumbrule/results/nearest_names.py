"""What a name that nothing has was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from plumbrule.errors import listed

MOST = 6


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error: the nearest of the known names, else the first of them."""
    names = list(known)
    ends = [one for one in names if one.rpartition("/")[2] == name]
    close = ends or difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"there are: {listed(names, MOST)}." if names else "there are none."
