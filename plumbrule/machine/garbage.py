"""How often Python looks for garbage in the processes that this project starts.

By default it looks after every 700 new containers. What is imported, composed and planned stays to
the end, so nothing is found, and that takes a seventh of a short command and a fifth of importing
torch, transformers and a stage.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

NEW_OBJECTS = 50_000
"""How many containers are made before the newest of them are looked through."""
_seldom = False


@contextlib.contextmanager
def not_collected() -> Iterator[None]:
    """Look for no garbage within: for imports, also in a process that is not ours (a notebook)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def collect_seldom() -> None:
    """Leave out what is there from now on and look through the rest less often.

    For a process of our own, once it has imported what it begins with. A second call does nothing:
    it would leave out for good what an earlier job of the process has left in cycles.
    """
    global _seldom
    if _seldom:
        return
    _seldom = True
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
