"""All of what `plumbrule gather` finds, and the files that it writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plumbrule.errors import ArtifactError
from plumbrule.report.optional_files import read_jsonl
from plumbrule.results.cells import ENDED, RunCell, gather_cells
from plumbrule.results.collapse import collapse_signs
from plumbrule.results.formats import write_tables
from plumbrule.results.tables import (
    find_group,
    frame_of,
    groups_of,
    metrics_of,
    shown_metrics,
    summarise,
)
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.file_names import METRIC_ROWS, SAMPLES
from plumbrule.store.metric_rows import read_metrics

if TYPE_CHECKING:
    import pandas

TRAINED = ("ppo", "dpo", "sft")
"""Kinds of nodes whose curves are drawn, the first that a run has."""
MOST_NAME = 60


class NodeRows(NamedTuple):
    """Rows that a node of a cell left. group: of the cell. repeat: its seed and fold as words."""

    group: str
    repeat: str
    node: str
    rows: Sequence[dict[str, Any]]


class Gathered(NamedTuple):
    """Cells and what was made of them. shown: metrics of a printed table. unfinished: neither done
    nor pruned.

    baseline: name of the group that others are compared with. collapsed: (group, seed and fold; and
    sign).
    """

    name: str
    cells: Sequence[RunCell]
    frame: pandas.DataFrame
    table: pandas.DataFrame
    metrics: Sequence[str]
    shown: Sequence[str]
    baseline: str | None
    curves: Sequence[NodeRows]
    collapsed: Sequence[tuple[str, str]]

    @property
    def unfinished(self) -> list[RunCell]:
        """The cells that are neither done nor stopped early by a search."""
        return [cell for cell in self.cells if cell.state not in ENDED]


def gather(
    store: Store,
    words: Sequence[str],
    metrics: Sequence[str] = (),
    baseline: str | None = None,
) -> Gathered:
    """Return the cells that `words` name and their tables; nothing is written.

    Raises: ArtifactError: they name nothing. ConfigError: an unknown metric or baseline, or one
    that shares no seed with another group.
    """
    cells = gather_cells(store, words)
    names = metrics_of(cells, metrics) if any(c.state == "done" for c in cells) else []
    base = find_group(groups_of(cells), baseline) if baseline and names else None
    table = summarise(cells, names, base)
    curves = [found for cell in cells if (found := curves_of(store, cell)) is not None]
    collapsed = [
        (f"{one.group} {one.repeat}", sign)
        for one in curves
        if one.node.partition("@")[0] not in ("sft",)
        for sign in collapse_signs(one.rows)
    ]
    return Gathered(
        folder_name(words),
        cells,
        frame_of(cells),
        table,
        names,
        list(metrics) or shown_metrics(names, cells),
        base,
        curves,
        collapsed,
    )


def folder_name(words: Sequence[str]) -> str:
    """Return the folder's name for what was gathered: the end of the words, which tells paths of
    one store apart.
    """
    text = re.sub(r"[^\w.=,-]", "_", " ".join(words)).strip("._") or Path(words[0]).resolve().name
    return text[-MOST_NAME:]


def curves_of(store: Store, cell: RunCell) -> NodeRows | None:
    """Return the rows that the policy of a done cell logged; None where they are gone."""
    nodes = cell.record.get("nodes", {}) if cell.state == "done" else {}
    for kind in TRAINED:
        for name, about in nodes.items():
            if about["kind"] == kind:
                rows = _published(store, about, METRIC_ROWS)
                if rows:
                    return NodeRows(cell.name, cell.repeat, name, rows)
    return None


def samples_of(store: Store, cell: RunCell) -> list[dict[str, Any]]:
    """Return the sampled answers of a cell's last evaluation, none where they are gone."""
    nodes = cell.record.get("nodes", {}) if cell.state == "done" else {}
    for about in reversed(list(nodes.values())):
        if about["kind"] in ("eval", "ppo"):
            rows = [r for r in _published(store, about, SAMPLES) if "response" in r]
            if rows:
                return rows
    return []


def _published(store: Store, node: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the rows of a node's published file; none where the artifact is gone or damaged."""
    try:
        artifact = Artifact.at(store.root / node["artifact"])
        if name == METRIC_ROWS:
            return read_metrics(artifact.file(name).parent) if artifact.has(name) else []
        return [row for row in read_jsonl(artifact, name) if isinstance(row, dict)]
    except (ArtifactError, OSError, ValueError):
        return []


def write(found: Gathered, store: Store, folder: Path) -> list[Path]:
    """Write the tables and the page into a folder and return their paths."""
    from plumbrule.results.page import render

    paths = write_tables(folder, found.frame, found.table, found.metrics)
    page = folder / "index.html"
    page.write_text(render(found, store), encoding="utf-8")
    return [*paths, page]
