"""Stage `summary`: the same metric of many runs, over their seeds.

Runs that differ by their seed alone are one row: the mean over seeds with Student's interval, which
says what another seed would have given. Each row is also compared with that of `summary.baseline`,
seed by seed: what the seeds share (data, the policy that is started from) cancels, so these
intervals can be much narrower than those of the means. With one seed a number stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.comparisons.config import SummaryConfig
from eval.intervals import publish
from plumbrule.errors import ConfigError, DataError
from plumbrule.inputs import Inputs
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import Interval, seed_interval
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import SUMMARY, TABLES
from plumbrule.store.json_files import write_json


class Line(NamedTuple):
    """One metric of one row. change: to the baseline, seed by seed; None: not compared."""

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

    Raises: DataError: a run lacks a metric or has one that is not finite. ConfigError: two runs of
    one label and seed, or no run has the baseline's label.
    """
    return write_summary(config, inputs, out)


def write_summary(
    config: SummaryConfig, inputs: Mapping[str, Artifact], out: Path
) -> dict[str, float]:
    """Do what `run` does, of which nothing needs a machine or a tracker."""
    by_label: dict[str, dict[str, Artifact]] = {}
    for one in Inputs(inputs).variations("run"):
        label = one.label or one.artifact.kind
        if one.seed in by_label.setdefault(label, {}):
            raise ConfigError(f"inputs of the summary must have one run of {label}; rename one.")
        by_label[label][one.seed] = one.artifact
    if config.baseline is not None and config.baseline not in by_label:
        raise ConfigError(
            f"summary.baseline (={config.baseline}) must be one of {', '.join(by_label)}."
        )
    lines = [line for metric in config.metrics for line in summarise(metric, by_label, config)]
    write_json(out / SUMMARY, [as_row(line) for line in lines])
    write_json(out / TABLES, [table(lines, config.baseline)])
    named = {f"summary/{line.metric}_{line.label}".replace(" ", "_"): line.mean for line in lines}
    return publish(named, out)


def summarise(
    metric: str, by_label: Mapping[str, Mapping[str, Artifact]], config: SummaryConfig
) -> list[Line]:
    """Return one metric's lines, in the order of the config.

    A baseline that no seed reaches is the same for all.
    """
    values = {
        label: {seed: read(artifact, metric) for seed, artifact in runs.items()}
        for label, runs in by_label.items()
    }
    base = values.get(config.baseline or "", {})
    lines: list[Line] = []
    for label, own in values.items():
        change = None
        gains = [value - base.get(seed, base.get("", math.nan)) for seed, value in own.items()]
        if label != config.baseline and gains and all(map(math.isfinite, gains)):
            change = seed_interval(gains, config.confidence)
        lines.append(
            Line(label, metric, own, seed_interval(list(own.values()), config.confidence), change)
        )
    return lines


def read(artifact: Artifact, metric: str) -> float:
    """Return a metric of an artifact. Raises: DataError: it has none, or one that is not finite."""
    if metric not in artifact.metrics:
        raise DataError(
            f"summary.metrics (={metric}) must be a headline metric of every run; this one has "
            f"{', '.join(sorted(artifact.metrics))}.",
            artifact.path,
        )
    value = artifact.metrics[metric]
    if not math.isfinite(value):
        raise DataError(f"{metric} (={value}) must be finite to be summarised.", artifact.path)
    return value


def as_row(line: Line) -> dict[str, Any]:
    """Return a line of `summary.json`."""
    return {
        "metric": line.metric,
        "label": line.label,
        "seeds": line.values,
        "mean": line.mean.as_json(),
        "change": None if line.change is None else line.change.as_json(),
    }


def table(lines: Sequence[Line], baseline: str | None) -> dict[str, Any]:
    """Return the table of the report, which cuts the means' bounds to where the metric can lie."""
    change = f"less that of {baseline}, seed by seed" if baseline else ""
    return {
        "title": "means over seeds",
        "columns": ["metric", "run", "seeds", "mean", change],
        "rows": [
            [
                line.metric,
                line.label,
                len(line.values),
                {"metric": line.metric, **line.mean.as_json()},
                "" if line.change is None else line.change.text(4),
            ]
            for line in lines
        ],
    }
