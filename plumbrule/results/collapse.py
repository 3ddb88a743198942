"""Signs of a policy that collapsed while it was trained, read from the rows of `metrics.jsonl`.

A mean over seeds hides a seed that broke, so each is told by itself. A run is long enough to be
judged from `FEWEST_ROWS` updates on; its beginning and end are means over a tenth of them.

* a metric that is NaN or infinite;
* entropy that ends below a tenth of where it began: the policy has become one answer;
* scores that rose and then fell below where they began, by more than they had risen;
* answers that end at less than a tenth of their first length.

That proxy and gold part (overoptimisation) is no collapse: `docs/read_a_report.md` has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FEWEST_ROWS = 10
SHARE = 0.1
"""Of the first value, below which entropy or length has collapsed."""
SHRINKS = {
    "objective/entropy": "entropy",
    "val/response_length_tokens": "response length",
}
"""Metric that a collapse brings near 0 -> how it is called."""
SCORES = "objective/scores"


def collapse_signs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence per sign of collapse in the rows of one training run; none: [].

    Args: rows: of `metrics.jsonl`, in the order of their updates; NaN and infinity may be text.
    """
    signs = []
    for name in dict.fromkeys(name for row in rows for name in row):
        for row in rows:
            value = row.get(name)
            if value is not None and not _is_finite(value):
                signs.append(f"{name} is {value} at update {row.get('update', '?')}")
                break
    for name, called in SHRINKS.items():
        if (ends := _ends(_series(rows, name))) is not None:
            first, last = ends
            if first > 0 and last < SHARE * first:
                signs.append(f"{called} fell from {first:.3g} to {last:.3g} ({name})")
    scores = _series(rows, SCORES)
    if (ends := _ends(scores)) is not None:
        first, last = ends
        best = float(_windows(scores).max())
        if first - last > best - first > 0:
            signs.append(f"scores rose from {first:.3g} to {best:.3g} and fell to {last:.3g}")
    return signs


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return True  # no number: text of another kind


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Return the finite values of a metric, (n,) float64."""
    values = [row[name] for row in rows if name in row and _is_finite(row[name])]
    return np.asarray([v for v in values if isinstance(v, int | float)], dtype=np.float64)


def _windows(series: np.ndarray) -> np.ndarray:
    """Return the means of all windows of a tenth of the series."""
    wide = max(1, len(series) // FEWEST_ROWS)
    return np.convolve(series, np.full(wide, 1 / wide), mode="valid")


def _ends(series: np.ndarray) -> tuple[float, float] | None:
    """Return the means of the first and the last tenth; None of a series that is too short."""
    if len(series) < FEWEST_ROWS:
        return None
    means = _windows(series)
    return float(means[0]), float(means[-1])
