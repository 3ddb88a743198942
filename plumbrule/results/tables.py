"""Tables of cells: a row per cell, and a row per group of seeds and metric with its intervals.

A group is what differs by its seed alone. Of a group with one seed the interval is that of the
run's own items and says so (`over`); it tells nothing about other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plumbrule.errors import ConfigError, listed
from plumbrule.report.metric_wording import direction, within
from plumbrule.report.sweep_table import FEWEST_SEEDS, SHOWN
from plumbrule.results.cells import RunCell
from plumbrule.results.nearest_names import nearest
from plumbrule.statistics import (
    Interval,
    bootstrap_interval,
    holm,
    improvement_interval,
    interquartile_mean,
    paired_p_value,
    seed_interval,
)

if TYPE_CHECKING:
    import pandas

Groups = Mapping[str, Sequence[RunCell]]
"""Name of a group -> its cells that are done."""
OWN_COLUMNS = ("group", "seed", "state", "run", "command", "error")
"""Columns of `frame_of` that are no metric; swept settings stand behind `seed`."""


def groups_of(cells: Iterable[RunCell]) -> dict[str, list[RunCell]]:
    """Return the done cells by group, in their order; of several of one seed the last counts."""
    groups: dict[str, dict[str, RunCell]] = {}
    for cell in cells:
        if cell.state == "done":
            own = groups.setdefault(cell.name, {})
            own[cell.seed or f"unknown {len(own)}"] = cell
    return {name: list(own.values()) for name, own in groups.items()}


def frame_of(cells: Sequence[RunCell]) -> pandas.DataFrame:
    """Return a row per cell: its group, swept settings (as text), seed, state, run and metrics."""
    import pandas

    rows = []
    for cell in cells:
        run = f"{cell.folder.parent.name}/{cell.folder.name}" if cell.folder and cell.record else ""
        about = {"group": cell.name, **cell.swept, "seed": cell.seed, "state": cell.state}
        rows.append({**about, "run": run, "command": cell.command, "error": cell.error})
    table = pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=list(OWN_COLUMNS))
    numbers = pandas.DataFrame([dict(cell.metrics) for cell in cells], dtype="float64")
    return pandas.concat([table, numbers], axis=1)


def metrics_of(cells: Sequence[RunCell], asked: Sequence[str] = ()) -> list[str]:
    """Return the metrics of a table: those asked for, else the headline of the done cells.

    Raises: ConfigError: one that no cell has; it names the nearest.
    """
    known = dict.fromkeys(name for cell in cells for name in cell.metrics)
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"--metric (={name}) must be a metric of these runs; {nearest(name, known)}"
            )
    if asked:
        return list(dict.fromkeys(asked))
    objectives = [c.objective for c in cells if c.objective in known]
    headline = [m for cell in cells if cell.state == "done" for m in cell.headline]
    return [str(m) for m in dict.fromkeys([*objectives, *headline]) if m in known]


def shown_metrics(metrics: Sequence[str], cells: Sequence[RunCell]) -> list[str]:
    """Return the metrics that a printed table has; files have all."""
    objectives = {cell.objective for cell in cells}
    return [m for m in metrics if m in objectives or m.endswith(SHOWN)] or list(metrics[:3])


def summarise(
    cells: Sequence[RunCell], metrics: Sequence[str], baseline: str | None = None
) -> pandas.DataFrame:
    """Return a row per group and metric.

    Columns: group, the swept settings, metric, n, mean, low, high, over (seeds or items), iqm,
    iqm_low, iqm_high, mean_low, mean_high (the bootstrap's), better (1: higher, -1: lower, 0:
    neither). With a baseline also pairs, difference, difference_low, difference_high, p, p_holm
    (over the groups of a metric), improvement, improvement_low, improvement_high.
    A run whose metric is no finite number does not count. Unknown numbers are NaN.

    Raises: ConfigError: `baseline` names no group, or none has a seed in common with it.
    """
    import pandas

    groups = groups_of(cells)
    base = None if baseline is None else find_group(groups, baseline)
    rows = []
    for name, alike in groups.items():
        for metric in metrics:
            values = _finite(alike, metric)
            if values:
                row = {"group": name, **alike[0].swept, "metric": metric}
                row |= _spread(metric, values, alike)
                if base is not None:
                    row |= _difference(metric, groups[base], alike, same=name == base)
                rows.append(row)
    table = pandas.DataFrame(rows)
    if base is None or table.empty:
        return table
    others = table["group"] != base
    if not (table.loc[others, "pairs"] > 0).any():
        told = {cell.seed for cell in groups[base]}
        raise ConfigError(
            f"--baseline (={baseline}) must have a seed in common with another group; its seeds "
            f"are {listed(sorted(told))}. Run the others with these, or name another baseline."
        )
    table["p_holm"] = math.nan
    for metric in metrics:
        own = others & (table["metric"] == metric)
        table.loc[own, "p_holm"] = holm(table.loc[own, "p"].tolist())
    return table


def find_group(groups: Groups, words: str) -> str:
    """Return the group that has all of some `key=value` words, or is called so.

    Raises: ConfigError: none has, or several have.
    """
    if words in groups:
        return words
    found = [name for name, cells in groups.items() if _has_all(cells[0].swept, words)]
    if len(found) == 1:
        return found[0]
    what = "none is" if not found else f"{len(found)} are"
    raise ConfigError(
        f"--baseline (={words}) must name one group of seeds, and {what} called so; "
        f"{nearest(words, found or groups)}"
    )


def _has_all(swept: Mapping[str, str], words: str) -> bool:
    """Return whether a text is made of `key=value` of these settings alone."""
    left = words
    for pair in sorted((f"{k}={v}" for k, v in swept.items()), key=len, reverse=True):
        left = left.replace(pair, " ", 1)
    return bool(words.strip()) and not left.strip()


def _finite(cells: Sequence[RunCell], metric: str) -> list[float]:
    values = (cell.metrics.get(metric, math.nan) for cell in cells)
    return [value for value in values if math.isfinite(value)]


def _spread(metric: str, values: Sequence[float], cells: Sequence[RunCell]) -> dict[str, Any]:
    """Return the mean and the interquartile mean of a group's seeds with their intervals.

    Two seeds have no Student's interval: its quantile is 12.7 deviations.
    """
    n = len(values)
    if n == 1:
        (own,) = [c.metrics for c in cells if math.isfinite(c.metrics.get(metric, math.nan))]
        low, high, over = own.get(f"{metric}_low"), own.get(f"{metric}_high"), "items"
    else:
        found = seed_interval(values)
        low, high, over = found.low, found.high, "seeds"
        if n < FEWEST_SEEDS:
            low = high = math.nan
    bounds = within(metric, *(None if x is None or x != x else x for x in (low, high)))
    row: dict[str, Any] = {"n": n, "mean": sum(values) / n, **_named("", *bounds), "over": over}
    iqm = bootstrap_interval(values, interquartile_mean)
    mean = bootstrap_interval(values)
    row |= {"iqm": iqm.value, **_named("iqm_", iqm.low, iqm.high)}
    return row | _named("mean_", mean.low, mean.high) | {"better": direction(metric)}


def _named(prefix: str, low: float | None, high: float | None) -> dict[str, float]:
    unknown = math.nan
    return {
        f"{prefix}low": unknown if low is None else low,
        f"{prefix}high": unknown if high is None else high,
    }


def _difference(
    metric: str, base: Sequence[RunCell], other: Sequence[RunCell], same: bool
) -> dict[str, Any]:
    """Return how a group differs from the baseline, seed by seed."""
    empty = Interval(math.nan, math.nan, math.nan, 0)
    before, after = (
        {c.seed: c.metrics[metric] for c in side if math.isfinite(c.metrics.get(metric, math.nan))}
        for side in (base, other)
    )
    seeds = [] if same else [seed for seed in before if seed in after]
    paired = [(before[seed], after[seed]) for seed in seeds]
    found = seed_interval([b - a for a, b in paired]) if paired else empty
    p = paired_p_value(*zip(*paired, strict=True)) if paired else math.nan
    won = empty
    if not same and before and after:
        won = improvement_interval(list(after.values()), list(before.values()))
        if direction(metric) < 0:
            won = Interval(1 - won.value, 1 - won.high, 1 - won.low, won.n)
    return {
        "pairs": len(paired),
        "difference": found.value,
        **_named("difference_", found.low, found.high),
        "p": p,
        "improvement": won.value,
        **_named("improvement_", won.low, won.high),
    }
