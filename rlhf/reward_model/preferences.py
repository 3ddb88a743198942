"""What every stage that learns from rankings asks of them."""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.data.records import Preference
from plumbrule.data.splits import prompt_of
from plumbrule.errors import DataError


def refuse_leaks(training: Sequence[Preference], held_out: Sequence[Preference]) -> None:
    """Raise DataError if a held-out prompt is trained on, as another input's split may have it."""
    learned = {prompt_of(p) for p in training}
    leaks = sorted(p.id for p in held_out if prompt_of(p) in learned)
    if leaks:
        raise DataError(
            f"{len(leaks)} held-out prompt(s), such as {leaks[0]}, must not be trained on; split "
            "all inputs `preferences` by the same prompts."
        )
