"""What a report shows, gathered from a run's record and its artifacts' files."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.report import figures
from plumbrule.report.answers import MAIN, answer
from plumbrule.report.curves import curves, stage_figure
from plumbrule.report.frontier import draw_frontier
from plumbrule.report.metric_wording import direction
from plumbrule.report.number_tables import (
    benchmark_tables,
    card_rows,
    comparison_rows,
    headline,
    stage_table,
    with_bounds,
)
from plumbrule.report.optional_files import read_json
from plumbrule.report.samples import paired_samples, samples
from plumbrule.report.times import where_time_went
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    COMPARISONS,
    FIGURES,
    INTERVALS,
    METRICS,
    NOTES,
    REPORT_CARD,
    TABLES,
)
from plumbrule.store.input_names import SIGN

MAX_ANSWERS = 12


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
            {**headline(name, metrics, intervals.get(name, {})), "is_main": name == main_card}
            for name in by_goal(record, goals, main_card)
        ],
        "graph": figures.graph(collapsed(nodes)),
        "frontier": draw_frontier(nodes, comparisons, folders),
        "times": where_time_went(nodes, shown),
        "nodes": nodes,
        "num_hidden": len(folders) - len(shown),
        "number": figures.number,
        "comparisons": [
            (name, comparison_rows(rows)) for name, rows in comparisons.items() if name in shown
        ],
        "benchmarks": benchmark_tables(
            {name: found for name, folder in shown.items() if (found := read_json(folder, METRICS))}
        ),
        "cards": [
            (name, card_rows(found), figures.reliability(found.get("reliability", [])))
            for name, folder in shown.items()
            if (found := read_json(folder, REPORT_CARD))
        ],
        "figures": [
            (name, [stage_figure(figure) for figure in found])
            for name, folder in folders.items()
            if (found := read_json(folder, FIGURES))
        ],
        "tables": [
            (name, stage_table(table))
            for name, folder in shown.items()
            for table in read_json(folder, TABLES) or []
        ],
        "curves": [
            (name, charts) for name, cells in by_node(folders).items() if (charts := curves(cells))
        ],
        "pairs": [
            (name, rows) for name in comparisons if (rows := paired_samples(name, nodes, folders))
        ],
        "samples": [(name, rows) for name, folder in shown.items() if (rows := samples(folder))],
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
                [with_bounds(m, metrics[name]) for m in columns],
            )
            for name in names
        ]
        if columns:
            better = [direction(column) for column in columns]
            tables.append({"node": node, "columns": columns, "better": better, "rows": rows})
    tables.sort(key=lambda table: table["node"] not in {n.split(SIGN)[0] for n in comparisons})
    return tables


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
