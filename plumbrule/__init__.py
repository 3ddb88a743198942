"""Plumbrule: RLHF alignment research from one command. Start at `plumbrule/cli/main.py`.

In Python, `plumbrule.runs(...)` and the other functions of `plumbrule/notebook.py` are here too
(docs/notebook.md); that module is imported when one of them is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_IN_NOTEBOOKS = (
    *("artifact", "best", "build", "compose_run", "diff", "gather", "policy", "replay"),
    *("run", "runs", "show", "tag", "unused"),
)


def __getattr__(name: str) -> Any:
    """Return a function of `plumbrule/notebook.py`. Raises: AttributeError: it has none."""
    if name in _IN_NOTEBOOKS:
        return getattr(importlib.import_module("plumbrule.notebook"), name)
    raise AttributeError(f"module 'plumbrule' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that are there and those that are imported when they are asked for."""
    return sorted([*globals(), *_IN_NOTEBOOKS])
