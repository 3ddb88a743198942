"""The page of a gathered sweep: one HTML file with its tables, plots and samples, without network.

`page.html` is a Jinja template with the style sheet of the report; its only script sorts and
filters what is there already, so the page reads the same without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.report import metric_wording, plots
from plumbrule.results.cells import RunCell
from plumbrule.results.formats import difference, estimate, number
from plumbrule.results.gathered import Gathered, samples_of
from plumbrule.results.parallel_axes import Axis, draw_lines
from plumbrule.results.seed_curves import draw_curves
from plumbrule.results.tables import groups_of
from plumbrule.statistics import performance_profile
from plumbrule.store.artifacts import Store

MOST_FIGURES = 8
MOST_PROMPTS = 6
MOST_GROUPS = 12
"""Groups of which samples stand side by side."""
REWARDS = ("gold_gain", "reward_gain", "objective/scores")
"""Ends of the metrics that are drawn against the KL, where a run has them."""
NUM_THRESHOLDS = 101


def render(found: Gathered, store: Store) -> str:
    """Return the page as HTML."""
    import jinja2

    folders = [Path(__file__).parent, Path(plots.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PrefixLoader({"report": jinja2.FileSystemLoader(folders[1])}),
                jinja2.FileSystemLoader(folders[0]),
            ]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    groups = groups_of(found.cells)
    colours = {name: place for place, name in enumerate(groups)}
    return environment.get_template("page.html").render(
        name=found.name,
        unfinished=found.unfinished,
        num_cells=len(found.cells),
        folded=any(cell.fold for cell in found.cells),
        collapsed=found.collapsed,
        baseline=found.baseline,
        rows=[] if found.table.empty else [_row(row) for _, row in found.table.iterrows()],
        cells=[_cell(cell, found.shown) for cell in found.cells],
        metrics=found.shown,
        swept=_swept_figures(found),
        against_kl=_against_kl(groups, colours),
        parallel=_parallel(groups, colours, found.shown),
        profiles=_profiles(groups, colours, found.shown),
        curves=draw_curves(found.curves, colours),
        samples=_samples(groups, store),
    )


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's metric as the page shows it, with the numbers that it is sorted by."""
    wording = metric_wording.describe(row["metric"])
    iqm = f"{number(row['iqm'])}"
    if math.isfinite(row["iqm_low"]):
        iqm += f" [{number(row['iqm_low'])}, {number(row['iqm_high'])}]"
    improved = number(row["improvement"]) if "improvement" in row else ""
    if improved and math.isfinite(row["improvement_low"]):
        improved += f" [{number(row['improvement_low'])}, {number(row['improvement_high'])}]"
    return {
        "group": row["group"],
        "metric": row["metric"],
        "title": f"{wording.meaning} ({wording.unit})" if wording.unit else wording.meaning,
        "mean": (row["mean"], estimate(row)),
        "iqm": (row["iqm"], iqm),
        "difference": (row.get("difference", math.nan), difference(row)),
        "improvement": (row.get("improvement", math.nan), improved),
    }


def _cell(cell: RunCell, metrics: Sequence[str]) -> dict[str, Any]:
    run = f"{cell.folder.parent.name}/{cell.folder.name}" if cell.folder and cell.record else ""
    numbers = [cell.metrics.get(metric, math.nan) for metric in metrics]
    shown = [(value, number(value)) for value in numbers]
    repeat = {"seed": cell.seed, "fold": cell.fold}
    return {"name": cell.name, **repeat, "state": cell.state, "run": run, "numbers": shown}


def _swept_figures(found: Gathered) -> list[dict[str, Any]]:
    """Return a figure per shown metric and swept setting, a line per value of the others."""
    if found.table.empty:
        return []
    keys = list(dict.fromkeys(key for cell in found.cells for key in cell.swept))
    figures = []
    for metric in found.shown:
        rows = [row for _, row in found.table[found.table["metric"] == metric].iterrows()]
        for key in keys:
            values = sorted({row[key] for row in rows}, key=in_order)
            if len(values) < 2:
                continue
            lines: dict[str, list[tuple[float, ...]]] = {}
            for row in sorted(rows, key=lambda row: in_order(row[key])):
                others = " ".join(f"{k}={row[k]}" for k in keys if k != key)
                point = (values.index(row[key]), row["mean"], row["low"], row["high"])
                lines.setdefault(others, []).append(point)
            series = [
                {"name": name, "style": "band", "colour": place, "points": points}
                for place, (name, points) in enumerate(lines.items())
            ]
            figure = {
                "title": metric,
                "x": key,
                "labels": list(enumerate(values)),
                "series": series,
            }
            figures.append(_drawn(figure, f"{metric} over {key}"))
    return figures[: 2 * MOST_FIGURES]


def in_order(value: str) -> tuple[bool, float, str]:
    """Return what sorts values: numbers by size, then the rest by their letters."""
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _drawn(figure: Mapping[str, Any], caption: str) -> dict[str, Any]:
    return {"svg": plots.plot(figure), "caption": caption, "legend": plots.legend(figure)}


def _against_kl(
    groups: Mapping[str, Sequence[RunCell]], colours: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return figures of reward against the KL, a dot per run; none where no run has a KL."""
    known = dict.fromkeys(m for cells in groups.values() for c in cells for m in c.metrics)
    kls = [m for m in known if m.rpartition(":")[2].endswith("objective/kl")][:1]
    figures = []
    for reward in [m for m in known if m.rpartition(":")[2].endswith(REWARDS)][:4] if kls else []:
        series = [
            {
                "name": name,
                "style": "dots",
                "colour": colours[name],
                "points": [
                    (cell.metrics[kls[0]], cell.metrics[reward])
                    for cell in cells
                    if kls[0] in cell.metrics and reward in cell.metrics
                ],
            }
            for name, cells in groups.items()
        ]
        figure = {"title": reward, "x": f"{kls[0]} (nats)", "series": series}
        figures.append(_drawn(figure, f"{reward} against {kls[0]}, a dot per run"))
    return [figure for figure in figures if figure["svg"]]


def _parallel(
    groups: Mapping[str, Sequence[RunCell]], colours: Mapping[str, int], metrics: Sequence[str]
) -> str:
    """Return parallel coordinates: a line per run over the swept settings and the metrics."""
    runs = [(name, cell) for name, cells in groups.items() for cell in cells]
    keys = list(dict.fromkeys(key for _, cell in runs for key in cell.swept))
    if len(runs) < 2 or not keys:
        return ""
    axes = []
    for key in keys:
        values = sorted({cell.swept[key] for _, cell in runs}, key=in_order)
        places = [float(values.index(cell.swept[key])) for _, cell in runs]
        axes.append(Axis(key, places, dict(enumerate(values))))
    for metric in metrics[:MOST_FIGURES]:
        axes.append(Axis(metric, [c.metrics.get(metric, math.nan) for _, c in runs], {}))
    names = [f"{name} {cell.repeat}" for name, cell in runs]
    return draw_lines(axes, names, [colours[name] for name, _ in runs])


def _profiles(
    groups: Mapping[str, Sequence[RunCell]], colours: Mapping[str, int], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a performance profile per metric of the groups that have more than one run."""
    figures = []
    for metric in metrics[:MOST_FIGURES]:
        scores = {
            name: [
                c.metrics[metric] for c in cells if math.isfinite(c.metrics.get(metric, math.nan))
            ]
            for name, cells in groups.items()
        }
        scores = {name: values for name, values in scores.items() if len(values) > 1}
        if len(scores) < 2:
            continue
        every = [value for values in scores.values() for value in values]
        if min(every) == max(every):
            continue
        thresholds = np.linspace(min(every), max(every), NUM_THRESHOLDS)
        series = [
            {
                "name": name,
                "style": "line",
                "colour": colours[name],
                "points": list(
                    zip(
                        thresholds.tolist(),
                        performance_profile(values, thresholds).tolist(),
                        strict=True,
                    )
                ),
            }
            for name, values in scores.items()
        ]
        figure = {"title": metric, "x": metric, "series": series}
        figures.append(_drawn(figure, f"share of runs whose {metric} lies above"))
    return figures


def _samples(groups: Mapping[str, Sequence[RunCell]], store: Store) -> list[dict[str, Any]]:
    """Return prompts with the answer of one run of each group, side by side."""
    sides: dict[str, dict[Any, dict[str, Any]]] = {}
    for name, cells in list(groups.items())[:MOST_GROUPS]:
        rows = samples_of(store, cells[0])
        keyed = {(r.get("benchmark"), r.get("condition"), r.get("id")): r for r in rows}
        if keyed:
            sides[f"{name} {cells[0].repeat}"] = keyed
    if not sides:
        return []
    first = next(iter(sides.values()))
    shared = [key for key in first if all(key in side for side in sides.values())]
    return [
        {
            "prompt": first[key].get("prompt", ""),
            "condition": first[key].get("condition", ""),
            "answers": [
                {
                    "name": name,
                    "response": side[key]["response"],
                    "scores": [
                        (k, number(float(v))) for k, v in side[key].items() if isinstance(v, float)
                    ],
                }
                for name, side in sides.items()
            ],
        }
        for key in shared[:MOST_PROMPTS]
    ]
