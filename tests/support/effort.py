"""How long the fuzzing tests search: seconds each in `make test`, minutes in `make test-slow`.

A fuzzing test takes `effort` and calls `search(effort, check, ...)`. The quick search is the same
each time, so that a change of nothing fails nothing; the long one is new each time, and prints what
it found as a call to repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FACTOR = 80
"""How many times as many examples the long search tries."""
efforts = pytest.mark.parametrize("effort", ["quick", pytest.param("long", marks=pytest.mark.slow)])


def search(
    effort: str, examples: int, check: Callable[..., None], **values: st.SearchStrategy[Any]
) -> None:
    """Call `check` with so many examples of `values`, or FACTOR times as many."""
    quick = effort == "quick"
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    settings(
        max_examples=examples if quick else FACTOR * examples,
        derandomize=quick,
        deadline=None,
        database=None,
        print_blob=not quick,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )(given(**values)(check))()
