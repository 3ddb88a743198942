"""Numbers with intervals as headline metrics, and the file that says what they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbrule.store.json_files import write_json

INTERVALS = "intervals.json"
"""Headline metric -> value, low, high, n, groups and perhaps reason, as `Interval.as_json` gives
them; in the artifact of each stage whose headline has intervals."""


def publish(numbers: Mapping[str, Mapping[str, Any]], out: Path) -> dict[str, float]:
    """Write numbers, as `Interval.as_json` gives them, to intervals.json; return them flat."""
    write_json(out / INTERVALS, numbers)
    return flat(numbers)


def flat(numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return each number as `name`, `name_low` and `name_high`, as far as they are known."""
    return {
        f"{name}{end}": number[bound]
        for name, number in numbers.items()
        for end, bound in (("", "value"), ("_low", "low"), ("_high", "high"))
        if number[bound] is not None
    }
