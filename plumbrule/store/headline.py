"""Numbers with intervals as headline metrics, and the file that says what they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbrule.store.file_names import INTERVALS
from plumbrule.store.json_files import write_json


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
