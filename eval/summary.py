"""Stage `summary`: the same metric of many runs, over their seeds.

Runs that differ by their seed alone are one row: the mean over seeds with Student's interval, which
says what another seed would have given. Each row is also compared with the first one, seed by seed:
what the seeds share (data, the policy that is started from) cancels, so these intervals can be much
narrower than those of the means. With one seed a number stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.config import SummaryConfig
from eval.intervals import as_json
from plumbrule.artifacts import Artifact, write_json
from plumbrule.config import RuntimeConfig
from plumbrule.errors import DataError
from plumbrule.gathered import gathered
from plumbrule.seeds import seed_interval
from plumbrule.statistics import Interval
from plumbrule.tracking import Tracker


class Line(NamedTuple):
    """One metric of one row. change: to the first row, seed by seed; None for the first itself."""

    label: str
    metric: str
    values: dict[str, float]
    mean: Interval
    change: Interval | None


def run(
    config: SummaryConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Write `summary.json` and a table; return `summary/<metric>_<label>` with bounds.

    Raises: DataError: a run lacks a metric.
    """
    by_label: dict[str, dict[str, Artifact]] = {}
    for one in gathered(inputs, "run"):
        by_label.setdefault(one.label or one.artifact.kind, {})[one.seed] = one.artifact
    lines = [
        line for metric in config.metrics for line in summarise(metric, by_label, config.confidence)
    ]
    write_json(out / "summary.json", [as_row(line) for line in lines])
    write_json(out / "tables.json", [table(lines)])
    metrics: dict[str, float] = {}
    for line in lines:
        name = f"summary/{line.metric}_{line.label}".replace(" ", "_")
        ends = {"": line.mean.value, "_low": line.mean.low, "_high": line.mean.high}
        metrics |= {name + end: x for end, x in ends.items() if x == x}  # no bounds of one seed
    return metrics


def summarise(
    metric: str, by_label: Mapping[str, Mapping[str, Artifact]], confidence: float
) -> list[Line]:
    """Return one metric's lines, in the order of the config."""
    lines: list[Line] = []
    for label, runs in by_label.items():
        values = {seed: read(artifact, metric) for seed, artifact in runs.items()}
        change = None
        if lines:
            first = lines[0].values
            both = [seed for seed in values if seed in first]
            if both:
                gains = [values[seed] - first[seed] for seed in both]
                change = seed_interval(gains, confidence)
        mean = seed_interval(list(values.values()), confidence)
        lines.append(Line(label, metric, values, mean, change))
    return lines


def read(artifact: Artifact, metric: str) -> float:
    """Return a metric of an artifact. Raises: DataError: it has none of that name."""
    if metric not in artifact.metrics:
        raise DataError(
            f"summary.metrics (={metric}) must be a headline metric of every run; this one has "
            f"{', '.join(sorted(artifact.metrics))}.",
            artifact.path,
        )
    return artifact.metrics[metric]


def as_row(line: Line) -> dict[str, Any]:
    """Return a line of `summary.json`."""
    return {
        "metric": line.metric,
        "label": line.label,
        "seeds": line.values,
        "mean": as_json(line.mean),
        "change": None if line.change is None else as_json(line.change),
    }


def table(lines: Sequence[Line]) -> dict[str, Any]:
    """Return the table of the report."""

    def cell(interval: Interval | None) -> str:
        if interval is None:
            return ""
        bounds = (
            "" if interval.low != interval.low else f" [{interval.low:.4f}, {interval.high:.4f}]"
        )
        return f"{interval.value:.4f}{bounds}"

    first = lines[0].label if lines else ""
    return {
        "title": "means over seeds",
        "columns": ["metric", "run", "seeds", "mean", f"less that of {first}, seed by seed"],
        "rows": [
            [line.metric, line.label, len(line.values), cell(line.mean), cell(line.change)]
            for line in lines
        ],
    }
