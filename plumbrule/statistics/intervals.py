"""An estimate with its bounds, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
MIN_GROUPS = 5
"""Groups below which a mean, or a share of grouped items, has no bounds: the spread between fewer
is too badly known. Ungrouped shares need none, since their variance follows from the share."""


class Interval(NamedTuple):
    """An estimate, its bounds, and the numbers of items and of groups that it rests on.

    Unknown bounds are NaN; `reason` says why. groups: None where the estimate is no sample's.
    method: how the bounds were made, where whoever made them says it.
    """

    value: float
    low: float
    high: float
    n: int
    groups: int | None = None
    reason: str = ""
    method: str = ""

    @property
    def is_bounded(self) -> bool:
        """Whether the bounds are known."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form: what is unknown is null, and `reason` stands beside it."""
        numbers = {
            name: None if isinstance(x, float) and math.isnan(x) else x
            for name, x in self._asdict().items()
            if name not in ("reason", "method")
        }
        words = {"reason": self.reason, "method": self.method}
        return numbers | {name: text for name, text in words.items() if text}

    @classmethod
    def from_json(cls, number: Mapping[str, Any]) -> Interval:
        """Return the interval whose JSON form is `number`; what else it holds is passed over."""
        unknown = {name: math.nan for name in ("value", "low", "high") if number[name] is None}
        own = {name: value for name, value in number.items() if name in cls._fields}
        return cls(**{**own, **unknown})

    def text(self, digits: int) -> str:
        """Return the number with its bounds, or why it has none, and what it rests on."""
        said = f"{self.value:.{digits}f}"
        if self.is_bounded:
            said += f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        elif self.reason:
            said += f" ({self.reason})"
        return said if self.groups is None else f"{said}, n {self.n}, groups {self.groups}"

    def scaled(self, factor: float, shift: float = 0.0) -> Interval:
        """Return the interval of factor * x + shift, for a factor above 0."""
        value, low, high = (factor * x + shift for x in (self.value, self.low, self.high))
        return self._replace(value=value, low=low, high=high)


def unknown(value: float, n: int, groups: int | None, reason: str) -> Interval:
    """Return an estimate without bounds."""
    return Interval(value, math.nan, math.nan, n, groups, reason)


def too_few(value: float, n: int, groups: int, least: int = MIN_GROUPS) -> Interval:
    """Return an estimate that rests on too few groups for bounds."""
    noun = "group" if groups == 1 else "groups"
    return unknown(value, n, groups, f"too few: {groups} {noun} of at least {least}")


def point(value: float, n: int) -> Interval:
    """Return a number that is exact for these items, or whose bounds nothing computes."""
    return unknown(value, n, None, "")


def sampled_bounds(value: float, low: float, high: float, n: int, groups: int) -> Interval:
    """Return an interval; one of no width is none, since a sample always leaves some doubt."""
    if math.isnan(low) or math.isnan(high):
        return unknown(value, n, groups, f"too few: {groups} groups")
    if not low < high:
        return unknown(value, n, groups, "no spread between groups")
    return Interval(value, low, high, n, groups)


def checked_confidence(confidence: float) -> float:
    """Return a confidence. Raises: ValueError: it does not lie in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence (={confidence}) must lie in (0, 1).")
    return confidence
