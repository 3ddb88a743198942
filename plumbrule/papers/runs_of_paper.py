"""What a store holds of a paper's sweeps: the newest run of each cell, from run folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plumbrule.errors import ArtifactError
from plumbrule.papers.expressions import EVERY, MetricReference, Value
from plumbrule.papers.paper import Paper, PaperScale
from plumbrule.papers.paper_files import ARM
from plumbrule.papers.sweep_words import PaperCell, cells_of, normal
from plumbrule.results.cells import identity_of, key_of
from plumbrule.results.nearest_names import nearest
from plumbrule.results.store_names import runs
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.file_names import METRIC_ROWS
from plumbrule.store.metric_rows import read_metrics

DONE = "done"
APART = ("run.name", "run.dry")
"""Keys of overrides that do not tell a paper's runs apart, beside what `identity_of` leaves out."""


class NotKnown(Exception):
    """A value that can't be had of the runs that are there; its text says why."""


class PaperRun(NamedTuple):
    """A cell and the newest run of it. state: done, failed, ..., or missing where there is none."""

    cell: PaperCell
    state: str
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called in a message."""
        settings = [f"{key}={value}" for key, value in self.cell.selection.items()]
        return " ".join([self.cell.arm, *settings, f"seed={self.cell.seed}"])


def runs_of_paper(paper: Paper, scale: PaperScale, store: Store) -> list[PaperRun]:
    """Return a run for each cell of a scale: the newest done one, else the newest."""
    apart = (*APART, *(need.setting for need in scale.needs))

    def identity(overrides: Sequence[str]) -> frozenset[str]:
        return identity_of(o for o in overrides if key_of(o) not in apart)

    own = [
        (identity(record["overrides"]), record)
        for folder, record in runs(store)
        if folder.parent.name == paper.run_name
    ]
    found = []
    for cell in cells_of(paper, scale):
        same = [record for words, record in own if words == identity(cell.overrides)]
        done = [record for record in same if record["state"] == DONE]
        newest = (done or same or [{}])[-1]
        found.append(PaperRun(cell, str(newest.get("state", "missing")), newest))
    return found


def meant_by(reference: MetricReference, every: Sequence[PaperRun], seed: int) -> list[PaperRun]:
    """Return the runs of a seed that a reference means: one, or for `*` one for each value.

    Raises: NotKnown: several are meant.
    """
    chosen = [
        run
        for run in every
        if run.cell.seed == seed
        and all(_fits(run.cell, key, value) for key, value in reference.where)
    ]
    wide = [key for key, value in reference.where if value == EVERY]
    places = [tuple(run.cell.selection.get(key, run.cell.arm) for key in wide) for run in chosen]
    if not chosen or len(set(places)) < len(places):
        names = ", ".join(run.name for run in chosen[:4]) or "none"
        raise NotKnown(f"{reference.text} must mean one run of a seed, and means {names}")
    return chosen


def _fits(cell: PaperCell, key: str, value: str) -> bool:
    own = cell.arm if key == ARM else cell.selection.get(key)
    return own is not None and (value == EVERY or normal(own) == normal(value))


def value_of(
    reference: MetricReference, every: Sequence[PaperRun], seed: int, store: Store
) -> Value:
    """Return what a reference is for a seed: a number, or an array.

    Raises: NotKnown: a run is not done, or has no such metric.
    """
    chosen = meant_by(reference, every, seed)
    for run in chosen:
        if run.state != DONE:
            error = " ".join(str(run.record.get("error") or "").split())
            raise NotKnown(f"run {run.name} is {run.state}" + (f": {error:.160}" if error else ""))
    if reference.is_curve:
        return _curve(reference, chosen[0], store)
    numbers = [_metric(reference, run) for run in chosen]
    wide = any(value == EVERY for _, value in reference.where)
    return np.array(numbers) if wide else numbers[0]


def _metric(reference: MetricReference, run: PaperRun) -> float:
    nodes = run.record.get("nodes", {})
    if not reference.node:
        metrics = run.record.get("metrics", {})
    elif reference.node in nodes:
        metrics = nodes[reference.node].get("metrics", {})
    else:
        raise NotKnown(f"{reference.text}: no such node; {nearest(reference.node, nodes)}")
    if reference.metric not in metrics:
        owners = [n for n, about in nodes.items() if reference.metric in about.get("metrics", {})]
        if not reference.node and owners:
            raise NotKnown(f"{reference.text} must name its node: {' or '.join(owners[:4])}")
        raise NotKnown(f"{reference.text}: no such metric; {nearest(reference.metric, metrics)}")
    return float(metrics[reference.metric])


def _curve(reference: MetricReference, run: PaperRun, store: Store) -> np.ndarray:
    """Return a node's metric over its updates (m,), from what its artifact keeps."""
    nodes = run.record.get("nodes", {})
    if reference.node not in nodes:
        raise NotKnown(f"{reference.text}: no such node; {nearest(reference.node, nodes)}")
    folder = store.root / Path(nodes[reference.node]["artifact"])
    try:
        rows = read_metrics(Artifact.at(folder).file(METRIC_ROWS).parent)
    except (ArtifactError, OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise NotKnown(f"the curves of {reference.node} are gone: {told:.160}") from None
    found = [float(row[reference.metric]) for row in rows if reference.metric in row]
    if not found:
        known = dict.fromkeys(key for row in rows for key in row)
        raise NotKnown(f"{reference.text}: no such curve; {nearest(reference.metric, known)}")
    return np.array(found)
