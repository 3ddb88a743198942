"""What a report shows, gathered from a run's record and its artifacts' files."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.report import figures, plots
from plumbrule.report.answers import MAIN, answer
from plumbrule.report.metric_wording import WORDINGS, better_when, describe, within
from plumbrule.store import json_files
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    COMPARISONS,
    FIGURES,
    INTERVALS,
    METRIC_ROWS,
    METRICS,
    NOTES,
    REPORT_CARD,
    SAMPLES,
    TABLES,
)
from plumbrule.store.input_names import SIGN
from plumbrule.store.metric_rows import read_metrics

MAX_ANSWERS = 12
MAX_CURVES = 12
MAX_SAMPLES = 6


def gather(record: Mapping[str, Any], paths: Mapping[str, Path]) -> dict[str, Any]:
    """Return the variables of the page templates.

    Raises: ArtifactError: a file of a published artifact is damaged.
    """
    folders = {name: Artifact.at(path) for name, path in paths.items()}
    metrics = record["metrics"]
    nodes = record["nodes"]
    shown = {name: folders[name] for name in first_of_each(folders)}
    intervals: dict[str, Mapping[str, Any]] = {}
    for node, folder in folders.items():
        for name, number in (read_json(folder, INTERVALS) or {}).items():
            intervals |= {f"{node}:{name}": number, name: intervals.get(name, number)}
    comparisons = {
        name: rows for name, folder in folders.items() if (rows := read_json(folder, COMPARISONS))
    }
    answered = [name for name in comparisons if name in shown or not _is_further_seed(name, shown)]
    answers = [answer(name, comparisons[name], nodes) for name in answered[:MAX_ANSWERS]]
    goals = goals_of(record)
    main_card = _main_card(record, goals)
    return {
        "record": record,
        "answers": [one for one in answers if one is not None],
        "grids": grids(record, comparisons),
        "command": command_of(record["overrides"]),
        "notes": list(record["notes"]),
        "node_notes": [
            (name, note.removeprefix(f"{name}: "))
            for name, folder in shown.items()
            for note in read_json(folder, NOTES) or []
        ],
        "headline": [
            {**_headline(name, metrics, intervals.get(name, {})), "is_main": name == main_card}
            for name in by_goal(record, goals, main_card)
        ],
        "graph": figures.graph(collapsed(nodes)),
        "nodes": nodes,
        "num_hidden": len(folders) - len(shown),
        "number": figures.number,
        "comparisons": [
            (name, _comparison(rows)) for name, rows in comparisons.items() if name in shown
        ],
        "benchmarks": _benchmarks(
            {name: found for name, folder in shown.items() if (found := read_json(folder, METRICS))}
        ),
        "cards": [
            (name, _flatten(found), figures.reliability(found.get("reliability", [])))
            for name, folder in shown.items()
            if (found := read_json(folder, REPORT_CARD))
        ],
        "figures": [
            (name, [_plot(figure) for figure in found])
            for name, folder in folders.items()
            if (found := read_json(folder, FIGURES))
        ],
        "tables": [
            (name, table)
            for name, folder in shown.items()
            for table in read_json(folder, TABLES) or []
        ],
        "curves": [
            (name, charts) for name, cells in by_node(folders).items() if (charts := _curves(cells))
        ],
        "pairs": [
            (name, rows) for name in comparisons if (rows := paired_samples(name, nodes, folders))
        ],
        "samples": [(name, rows) for name, folder in shown.items() if (rows := _samples(folder))],
        "hardware": next((n["hardware"] for n in nodes.values() if n["hardware"]), {}),
    }


def command_of(overrides: Iterable[str]) -> str:
    """Return a command as it can be pasted into a shell."""
    return " ".join(["plumbrule", *(shlex.quote(override) for override in overrides)])


def goals_of(record: Mapping[str, Any]) -> list[str]:
    """Return the nodes that a run was asked for, the first the one that it is about."""
    section = record.get("config", {}).get("run", {})
    return [section["only"]] if section.get("only") else list(section.get("goals", []))


def by_goal(record: Mapping[str, Any], goals: Sequence[str], main: str | None) -> list[str]:
    """Return the headline metrics: the main one, then those of each goal, then the others."""
    owners = record.get("headline_nodes", {})

    def place(name: str) -> int:
        node = owners.get(name, "").split(SIGN)[0]
        return -1 if name == main else goals.index(node) if node in goals else len(goals)

    return sorted(record["headline"], key=place)


def _main_card(record: Mapping[str, Any], goals: Sequence[str]) -> str | None:
    """Return the headline metric that a run's first goal is about; None where none is."""
    owners = record.get("headline_nodes", {})
    own = [n for n in record["headline"] if owners.get(n, "").split(SIGN)[0] in goals[:1]]
    ends = [n for what in MAIN for n in own if n.endswith(what)]
    return next(iter([*ends, *own]), None)


def _is_further_seed(name: str, shown: Iterable[str]) -> bool:
    """Return whether a comparison is one of another seed than the first of its variation."""
    axes = name.split(SIGN)
    first = next((other for other in shown if other.split(SIGN)[0] == axes[0]), name)
    seeds = [part for part in axes[1:] if part.startswith("seed=")]
    return bool(seeds) and seeds[0] not in first.split(SIGN)


def first_of_each(names: Iterable[str]) -> list[str]:
    """Return the names without those of further variations of a node."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name.split(SIGN)[0], name)
    return list(found.values())


def by_node(folders: Mapping[str, Artifact]) -> dict[str, dict[str, Artifact]]:
    """Return node -> variation ("" where it is the only one) -> artifact."""
    found: dict[str, dict[str, Artifact]] = {}
    for name, folder in folders.items():
        node, _, variation = name.partition(SIGN)
        found.setdefault(node, {})[variation.replace(SIGN, " ")] = folder
    return found


def grids(
    record: Mapping[str, Any], comparisons: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return a result table for each node that stands for several: a row for each variation.

    Columns are the headline metrics of that node; of a comparison, its first quantity.
    """
    wanted = {name.rpartition(":")[2] for name in record["headline"]}
    tables = []
    variations: dict[str, list[str]] = {}
    for name in record["nodes"]:
        variations.setdefault(name.split(SIGN)[0], []).append(name)
    for node, names in variations.items():
        if len(names) < 2:
            continue
        metrics = {name: record["nodes"][name].get("metrics", {}) for name in names}
        columns = [m for m in metrics[names[0]] if m in wanted]
        rows = [
            (
                name.removeprefix(node).removeprefix(SIGN).replace(SIGN, " "),
                [_with_bounds(m, metrics[name]) for m in columns],
            )
            for name in names
        ]
        if columns:
            tables.append({"node": node, "columns": columns, "rows": rows})
    tables.sort(key=lambda table: table["node"] not in {n.split(SIGN)[0] for n in comparisons})
    return tables


def _with_bounds(name: str, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return a metric of a node and its interval as text."""
    if name not in metrics:
        return {"value": "", "bounds": ""}
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    low, high = within(name, low, high)
    bounds = "" if low is None or high is None else f"{_shown(low)} to {_shown(high)}"
    return {"value": _shown(metrics[name]), "bounds": bounds}


def paired_samples(
    compare: str, nodes: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Artifact]
) -> list[dict[str, Any]]:
    """Return prompts that both evaluations of a compare node show, with both responses.

    Each has the columns of `samples.jsonl` that are numbers, before and after.
    """
    if SIGN in compare:
        return []
    inputs = nodes.get(compare, {}).get("inputs", {})
    sides = [
        {
            (row["benchmark"], row["condition"], row["id"]): row
            for row in read_jsonl(folders[inputs[slot]], SAMPLES)
            if "response" in row
        }
        for slot in ("baseline", "policy")
        if inputs.get(slot) in folders
    ]
    if len(sides) < 2:
        return []
    before, after = sides
    shared = [key for key in before if key in after]
    chosen = [key for b in BENCHMARKS for key in shared if key[0] == b][:MAX_PAIRS]
    return [
        {
            "condition": key[1],
            "prompt": before[key]["prompt"],
            "passages": before[key].get("passages") or [],
            "sides": [
                {
                    "node": inputs[slot],
                    "response": side[key]["response"],
                    "scores": [
                        (name, _shown(value))
                        for name, value in side[key].items()
                        if isinstance(value, int | float) and value is not None
                    ],
                }
                for slot, side in (("baseline", before), ("policy", after))
            ],
        }
        for key in chosen
    ]


BENCHMARKS = ("prompts", "questions")
"""Whose samples are shown before and after, in this order."""
MAX_PAIRS = 8


def read_jsonl(artifact: Artifact, name: str) -> list[Any]:
    """Return the rows of an artifact's JSON Lines file, none where it has no such file."""
    if not artifact.has(name):
        return []
    return json_files.read_jsonl(artifact.file(name))


def collapsed(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the nodes of a run with all variations of one as one, for the drawing of its graph."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, about in nodes.items():
        groups.setdefault(name.split(SIGN)[0], []).append(about)
    return {
        name: {
            **alike[0],
            "kind": alike[0]["kind"] + (f" × {len(alike)}" if len(alike) > 1 else ""),
            "state": "built" if any(a["state"] != "cached" for a in alike) else "cached",
            "inputs": {
                s: source.split(SIGN)[0] for a in alike for s, source in a["inputs"].items()
            },
            "wall_seconds": sum(a["wall_seconds"] for a in alike),
        }
        if len(alike) > 1 or any(SIGN in source for source in alike[0]["inputs"].values())
        else dict(alike[0])
        for name, alike in groups.items()
    }


def read_json(artifact: Artifact, name: str) -> Any:
    """Return the value of an artifact's JSON file, or None where it has no such file."""
    if not artifact.has(name):
        return None
    return json_files.read_json(artifact.file(name))


def _headline(name: str, metrics: Mapping[str, float], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a headline metric with its interval. found: what its stage wrote of it, or {}."""
    unit, meaning = describe(name)
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return {
        "name": name,
        "value": figures.number(metrics[name]),
        "interval": _interval({"low": low, "high": high, "reason": found.get("reason")}, name),
        "size": _size(found),
        "unit": unit,
        "meaning": meaning,
    }


def _plot(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's figure as the page shows it."""
    words = {name: figure[name] for name in ("title", "caption", "y")}
    return {**words, "svg": plots.plot(figure), "legend": plots.legend(figure)}


def _comparison(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return comparison rows, rewards first, each with an interval bar.

    Rows of one quantity share an axis, which holds zero. A bound that is not known leaves no bar.
    """
    shown = []
    measured = Counter(row["what"] for row in rows)
    for row in sorted(rows, key=lambda row: not str(row["what"]).startswith("gold")):
        if row["condition"] == "all" and measured[row["what"]] == 2:
            continue  # it repeats the one condition that there is
        alike = [other for other in rows if other["what"] == row["what"]]
        ends = [float(o[k]) for o in alike for k in ("low", "high") if o[k] is not None]
        span = (min([0.0, *ends]), max([0.0, *ends]))
        known = row["low"] is not None and row["high"] is not None
        shown.append(
            {
                **row,
                "bar": figures.interval_bar(
                    row["difference"], row["low"], row["high"], span, better_when(row)
                )
                if known
                else "",
                "interval": _interval(row),
                "groups": _shown(row.get("groups")),
                **{k: _shown(row[k]) for k in ("baseline", "policy", "difference")},
            }
        )
    return shown


def _benchmarks(evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one table per benchmark: metrics down, evaluated nodes and conditions across.

    A cell is empty where that node and condition has no such metric.
    """
    columns: dict[str, dict[str, Mapping[str, Any]]] = {}
    for node, by_benchmark in evaluations.items():
        for benchmark, by_condition in by_benchmark.items():
            for condition, metrics in by_condition.items():
                head = f"{node} · {condition}" if len(by_condition) > 1 else node
                columns.setdefault(benchmark, {})[head] = metrics
    return [
        {
            "name": benchmark,
            "columns": list(found),
            "rows": [
                (metric, [_cell(metrics.get(metric), metric) for metrics in found.values()])
                for metric in dict.fromkeys(m for metrics in found.values() for m in metrics)
            ],
        }
        for benchmark, found in columns.items()
    ]


def _cell(number: Mapping[str, Any] | None, name: str) -> dict[str, str]:
    """Return value, interval and n of one measured number, as text."""
    if number is None:
        return {"value": "", "interval": "", "n": "", "groups": "", "bounds": ""}
    interval = _interval(number, name)
    return {
        "value": _shown(number["value"]),
        "interval": interval,
        "n": _shown(number.get("n")),
        "groups": _shown(number.get("groups")),
        "bounds": " · ".join(part for part in (interval, _size(number)) if part),
    }


def _interval(number: Mapping[str, Any], metric: str = "") -> str:
    """Return the bounds of a number as text, or why it has none. metric: "": a difference."""
    low, high = number.get("low"), number.get("high")
    if metric:
        low, high = within(metric, low, high)
    if low is None or high is None:
        return str(number.get("reason") or "")
    return f"{_shown(low)} to {_shown(high)}"


def _size(number: Mapping[str, Any]) -> str:
    """Return how many items and groups a number rests on, as text."""
    n, groups = _shown(number.get("n")), _shown(number.get("groups"))
    parts = (f"n {n}" if n else "", f"groups {groups}" if groups else "")
    return " · ".join(part for part in parts if part)


def _flatten(found: Mapping[str, Any], path: str = "") -> list[dict[str, str]]:
    """Return one row per number of a nested mapping; {"value", "low", "high", "n"} is one."""
    rows: list[dict[str, str]] = []
    for key, value in found.items():
        name = f"{path} · {key}" if path else str(key)
        if isinstance(value, Mapping) and "value" in value:
            rows.append({"name": name, **_cell(value, f"rm/{key}")})
        elif isinstance(value, Mapping):
            rows += _flatten(value, name)
        elif isinstance(value, int | float | str):
            rows.append(
                {"name": name, "value": _shown(value), "interval": "", "n": "", "groups": ""}
            )
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return figures.number(float(value)) if isinstance(value, int | float) else str(value)


def _curves(cells: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Return charts of the metrics that a node's stages logged at three or more updates.

    One variation is a line chart; several share the axes of a larger one.
    """
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for cell, artifact in cells.items():
        logged = artifact.has(METRIC_ROWS) and artifact.file(METRIC_ROWS).parent
        for row in read_metrics(logged) if logged else []:
            for name, value in row.items():
                if name != "update" and isinstance(value, int | float) and math.isfinite(value):
                    points = series.setdefault(name, {}).setdefault(cell, [])
                    points.append((row["update"], value))
    order = list(WORDINGS)
    names = [n for n, by in series.items() if max(map(len, by.values())) >= 3]
    names = [n for n in names if not n.startswith("time/")]
    names.sort(key=lambda n: order.index(n) if n in order else len(order))
    return [
        {
            "name": name,
            "unit": describe(name)[0],
            "meaning": describe(name)[1],
            **_chart(name, {cell: _thinned(points) for cell, points in series[name].items()}),
        }
        for name in names[:MAX_CURVES]
    ]


def _chart(name: str, cells: Mapping[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return the drawing of one metric's curves and its legend."""
    if len(cells) == 1:
        return {"svg": figures.line_chart(next(iter(cells.values())), name), "legend": []}
    figure = {
        "title": name,
        "x": "update",
        "series": [
            {"name": cell, "style": "line", "colour": n, "points": points}
            for n, (cell, points) in enumerate(cells.items())
        ],
    }
    return {"svg": plots.plot(figure), "legend": plots.legend(figure)}


def _thinned(points: list[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """Return at most `most` points, means of equal runs, so that a page stays small."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def _samples(artifact: Artifact) -> list[list[tuple[str, str]]]:
    """Return the first samples of an artifact as lists of (field, text)."""
    return [list(_fields(row)) for row in read_jsonl(artifact, SAMPLES)[:MAX_SAMPLES]]


def _fields(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in row.items():
        if key in ("id", "key", "keys", "meta") or value in (None, [], {}, ""):
            continue
        yield key, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return figures.number(value)
    if isinstance(value, list) and value and isinstance(value[0], Mapping) and "role" in value[0]:
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in value)
    if isinstance(value, list):
        return "\n".join(f"- {_text(item)}" for item in value)
    if isinstance(value, Mapping):
        return "\n".join(f"{k}: {_text(v)}" for k, v in value.items())
    return str(value)
