"""What a run that is being built has got to: its nodes' newest rows of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.store.artifacts import Store
from plumbrule.store.claims import BUILD, NAME, read_owner
from plumbrule.store.layout import ARTIFACTS
from plumbrule.store.metric_rows import read_metrics

SHOWN = ("objective/scores", "objective/kl", "objective/entropy", "loss")
"""Beginnings of the metrics that a line has; else the first few."""
MOST = 4


class Building(NamedTuple):
    """A node that a run is building. row: the newest of its metrics, {} before the first."""

    kind: str
    fingerprint: str
    row: Mapping[str, Any]

    def line(self) -> str:
        """Return what a terminal shows of it."""
        numbers = {k: v for k, v in self.row.items() if isinstance(v, float)}
        named = [k for k in numbers if k.startswith(SHOWN)] or list(numbers)
        told = "  ".join(f"{name} {numbers[name]:.4g}" for name in named[:MOST])
        update = f"update {self.row['update']}  {told}" if self.row else "no metrics yet"
        return f"{self.kind}/{self.fingerprint}  {update}"


def building(store: Store, run: Path) -> list[Building]:
    """Return the nodes that the run in a folder holds the claims of."""
    name = f"{run.parent.name}/{run.name}"
    found = []
    for path in sorted((store.root / ARTIFACTS).glob(f"*/*{BUILD}/{NAME}")):
        owner = read_owner(path)
        if owner is not None and owner.run == name:
            rows = read_metrics(path.parent / owner.token)
            kind, fingerprint = path.parent.parent.name, path.parent.name.removesuffix(BUILD)
            found.append(Building(kind, fingerprint, rows[-1] if rows else {}))
    return found
