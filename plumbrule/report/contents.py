"""What a report shows, gathered from a run's record and its artifacts' files."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.artifacts import Artifact
from plumbrule.gathered import SIGN
from plumbrule.metrics import METRICS, describe
from plumbrule.report import figures, plots
from plumbrule.tracking import read_metrics

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
    return {
        "record": record,
        "command": " ".join(["plumbrule", *(shlex.quote(o) for o in record["overrides"])]),
        "notes": list(record["notes"]),
        "node_notes": [
            (name, note)
            for name, folder in shown.items()
            for note in read_json(folder, "notes.json") or []
        ],
        "headline": [_headline(name, metrics) for name in record["headline"]],
        "graph": figures.graph(collapsed(nodes)),
        "nodes": nodes,
        "num_hidden": len(folders) - len(shown),
        "number": figures.number,
        "comparisons": [
            (name, _comparison(rows))
            for name, folder in shown.items()
            if (rows := read_json(folder, "comparisons.json"))
        ],
        "benchmarks": _benchmarks(
            {
                name: found
                for name, folder in shown.items()
                if (found := read_json(folder, "metrics.json"))
            }
        ),
        "cards": [
            (name, _flatten(found), figures.reliability(found.get("reliability", [])))
            for name, folder in shown.items()
            if (found := read_json(folder, "report_card.json"))
        ],
        "figures": [
            (name, [_plot(figure) for figure in found])
            for name, folder in folders.items()
            if (found := read_json(folder, "figures.json"))
        ],
        "tables": [
            (name, table)
            for name, folder in shown.items()
            for table in read_json(folder, "tables.json") or []
        ],
        "curves": [(name, charts) for name, folder in shown.items() if (charts := _curves(folder))],
        "samples": [(name, rows) for name, folder in shown.items() if (rows := _samples(folder))],
        "hardware": next((n["hardware"] for n in nodes.values() if n["hardware"]), {}),
    }


def first_of_each(names: Iterable[str]) -> list[str]:
    """Return the names without those of further variations of a node."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name.split(SIGN)[0], name)
    return list(found.values())


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
    return json.loads(artifact.file(name).read_text(encoding="utf-8"))


def _headline(name: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    unit, meaning = describe(name)
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return {
        "name": name,
        "value": figures.number(metrics[name]),
        "interval": ""
        if low is None
        else f"{figures.number(low)} to {figures.number(high or 0.0)}",
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
    for row in sorted(rows, key=lambda row: not str(row["what"]).startswith("gold")):
        alike = [other for other in rows if other["what"] == row["what"]]
        ends = [float(o[k]) for o in alike for k in ("low", "high") if o[k] is not None]
        span = (min([0.0, *ends]), max([0.0, *ends]))
        known = row["low"] is not None and row["high"] is not None
        shown.append(
            {
                **row,
                "bar": figures.interval_bar(row["difference"], row["low"], row["high"], span)
                if known
                else "",
                "interval": f"{_shown(row['low'])} to {_shown(row['high'])}" if known else "",
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
                (metric, [_cell(metrics.get(metric)) for metrics in found.values()])
                for metric in dict.fromkeys(m for metrics in found.values() for m in metrics)
            ],
        }
        for benchmark, found in columns.items()
    ]


def _cell(number: Mapping[str, Any] | None) -> dict[str, str]:
    """Return value, interval and n of one measured number, as text."""
    if number is None:
        return {"value": "", "interval": "", "n": "", "bounds": ""}
    low, high, n = number.get("low"), number.get("high"), _shown(number.get("n"))
    interval = "" if low is None else f"{_shown(low)} to {_shown(high)}"
    bounds = " · ".join(part for part in (interval, f"n {n}" if n else "") if part)
    return {"value": _shown(number["value"]), "interval": interval, "n": n, "bounds": bounds}


def _flatten(found: Mapping[str, Any], path: str = "") -> list[dict[str, str]]:
    """Return one row per number of a nested mapping; {"value", "low", "high", "n"} is one."""
    rows: list[dict[str, str]] = []
    for key, value in found.items():
        name = f"{path} · {key}" if path else str(key)
        if isinstance(value, Mapping) and "value" in value:
            rows.append({"name": name, **_cell(value)})
        elif isinstance(value, Mapping):
            rows += _flatten(value, name)
        elif isinstance(value, int | float | str):
            rows.append({"name": name, "value": _shown(value), "interval": "", "n": ""})
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return figures.number(float(value)) if isinstance(value, int | float) else str(value)


def _curves(folder: Artifact) -> list[dict[str, str]]:
    """Return charts of the metrics that a stage logged at three or more updates."""
    series: dict[str, list[tuple[float, float]]] = {}
    rows = []
    if folder.has("metrics.jsonl"):
        rows = read_metrics(folder.file("metrics.jsonl").parent)
    for row in rows:
        for name, value in row.items():
            if name != "update" and isinstance(value, int | float) and math.isfinite(value):
                series.setdefault(name, []).append((row["update"], value))
    order = list(METRICS)
    names = [n for n, points in series.items() if len(points) >= 3 and not n.startswith("time/")]
    names.sort(key=lambda n: order.index(n) if n in order else len(order))
    return [
        {
            "name": name,
            "unit": describe(name)[0],
            "meaning": describe(name)[1],
            "svg": figures.line_chart(_thinned(series[name]), name),
        }
        for name in names[:MAX_CURVES]
    ]


def _thinned(points: list[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """Return at most `most` points, means of equal runs, so that a page stays small."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def _samples(folder: Artifact) -> list[list[tuple[str, str]]]:
    """Return the first samples of an artifact as lists of (field, text)."""
    if not folder.has("samples.jsonl"):
        return []
    with open(folder.file("samples.jsonl"), encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(MAX_SAMPLES), lines, strict=False)]
    return [list(_fields(row)) for row in rows]


def _fields(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in row.items():
        if key in ("id", "keys", "meta") or value in (None, [], {}, ""):
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
