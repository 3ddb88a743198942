"""Tables of cells: a row per cell, and a row per group of seeds and metric with its intervals.

A group is what differs by its seed, or by the fold that it holds out, alone. Of a group with one
run the interval is that of the run's own items and says so (`over`); it tells nothing about other
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plumbrule.errors import ConfigError, listed
from plumbrule.report.metric_wording import direction, within
from plumbrule.report.repeats import FEWEST, FOLDS, ITEMS, Repeats
from plumbrule.report.sweep_table import SHOWN
from plumbrule.results.cells import RunCell
from plumbrule.results.nearest_names import nearest
from plumbrule.statistics import (
    Interval,
    bootstrap_interval,
    fold_p_value,
    holm,
    improvement_interval,
    interquartile_mean,
    paired_p_value,
)

if TYPE_CHECKING:
    import pandas

Groups = Mapping[str, Sequence[RunCell]]
"""Name of a group -> its cells that are done."""
OWN_COLUMNS = ("group", "seed", "state", "run", "command", "error")
"""Columns of `frame_of` that are no metric; swept settings stand behind `seed`."""


def groups_of(cells: Iterable[RunCell]) -> dict[str, list[RunCell]]:
    """Return the done cells by group, in their order; of several of one seed and fold the last
    counts.
    """
    groups: dict[str, dict[str, RunCell]] = {}
    for cell in cells:
        if cell.state == "done":
            own = groups.setdefault(cell.name, {})
            own[cell.repeat or f"unknown {len(own)}"] = cell
    return {name: list(own.values()) for name, own in groups.items()}


def frame_of(cells: Sequence[RunCell]) -> pandas.DataFrame:
    """Return a row per cell: its group, swept settings (as text), seed, fold where there are any,
    state, run and metrics.
    """
    import pandas

    rows = []
    folded = any(cell.fold for cell in cells)
    for cell in cells:
        run = f"{cell.folder.parent.name}/{cell.folder.name}" if cell.folder and cell.record else ""
        about = {"group": cell.name, **cell.swept, "seed": cell.seed}
        about |= ({"fold": cell.fold} if folded else {}) | {"state": cell.state}
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

    Columns: group, the swept settings, metric, n, mean, low, high, over (seeds, folds or items),
    iqm, iqm_low, iqm_high, mean_low, mean_high (the bootstrap's), better (1: higher, -1: lower, 0:
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
            measured = _finite(alike, metric)
            if measured:
                row = {"group": name, **alike[0].swept, "metric": metric}
                row |= _spread(metric, measured)
                if base is not None:
                    row |= _difference(metric, groups[base], alike, same=name == base)
                rows.append(row)
    table = pandas.DataFrame(rows)
    if base is None or table.empty:
        return table
    others = table["group"] != base
    if not (table.loc[others, "pairs"] > 0).any():
        told = {cell.repeat for cell in groups[base]}
        raise ConfigError(
            f"--baseline (={baseline}) must have a seed in common with another group, and a fold "
            f"where there are any; it has {listed(sorted(told))}. Run the others with these, or "
            "name another baseline."
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


def _finite(cells: Sequence[RunCell], metric: str) -> list[RunCell]:
    return [cell for cell in cells if math.isfinite(cell.metrics.get(metric, math.nan))]


def _spread(metric: str, cells: Sequence[RunCell]) -> dict[str, Any]:
    """Return the mean and the interquartile mean of a group's seeds or folds with their intervals.

    Folds have no bootstrap: they share most of the rows that they train on, so their spread alone
    says too little.
    """
    repeats = Repeats.of([cell.measured(metric) for cell in cells])
    n, over, found = len(repeats.values), repeats.over, repeats.interval()
    low, high = found.low, found.high
    if len(cells) == 1:
        own, over = cells[0].metrics, ITEMS
        low, high = (own.get(f"{metric}_{end}", math.nan) for end in ("low", "high"))
    bounds = within(metric, *(None if x is None or x != x else x for x in (low, high)))
    row: dict[str, Any] = {"n": n, "mean": found.value, **_named("", *bounds), "over": over}
    iqm = bootstrap_interval(repeats.values, interquartile_mean)
    mean = bootstrap_interval(repeats.values)
    if over == FOLDS:
        iqm, mean = (one._replace(low=math.nan, high=math.nan) for one in (iqm, mean))
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
    """Return how a group differs from the baseline, seed by seed, and fold by fold.

    From fewer than `FEWEST` seeds or folds there are neither bounds nor a p-value, as of a mean.
    """
    empty = Interval(math.nan, math.nan, math.nan, 0)
    before, after = (
        {c.repeat: c.measured(metric) for c in _finite(side, metric)} for side in (base, other)
    )
    keys = [] if same else [key for key in before if key in after]
    gains = [
        one._replace(value=one.value - before[key].value)
        for key, one in after.items()
        if key in keys
    ]
    repeats = Repeats.of(gains) if gains else None
    found, p = empty, math.nan
    if repeats is not None:
        found = repeats.interval()
        if repeats.over == FOLDS and len(repeats.values) >= FEWEST:
            p = fold_p_value(repeats.values, repeats.folds)
        elif len(keys) >= FEWEST:
            p = paired_p_value(*([side[key].value for key in keys] for side in (before, after)))
    won = empty
    if not same and before and after:
        ours, theirs = (Repeats.of(list(side.values())) for side in (after, before))
        won = improvement_interval(ours.values, theirs.values)
        if FOLDS in (ours.over, theirs.over):
            won = won._replace(low=math.nan, high=math.nan)
        if direction(metric) < 0:
            won = Interval(1 - won.value, 1 - won.high, 1 - won.low, won.n)
    return {
        "pairs": 0 if repeats is None else len(repeats.values),
        "difference": found.value,
        **_named("difference_", found.low, found.high),
        "p": p,
        "improvement": won.value,
        **_named("improvement_", won.low, won.high),
    }
