"""Where a run's time went: seconds of each node, and of the parts of a training's updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumbrule.report.curves import is_finite, logged_rows
from plumbrule.report.figures import number
from plumbrule.store.artifacts import Artifact
from plumbrule.store.input_names import SIGN

PARTS = {
    "time/generate_seconds": "sampling",
    "time/score_seconds": "reward terms",
    "time/forward_seconds": "log-probs and values",
    "time/update_seconds": "training",
}
"""Logged seconds of an update that do not hold one another, and what they are called."""
BUILT = ("built", "resumed")
LEAST_SHARE = 0.01
"""Of the longest node, from which a node has a line of its own."""


def where_time_went(
    nodes: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Artifact]
) -> dict[str, Any]:
    """Return rows, the sentence above them and the parts of trainings.

    A row is a node with all its variations: name, `built` and `stored` seconds as text and as
    percent of the longest row. Args: nodes: of the run's record. folders: node -> its artifact.
    """
    seconds: dict[str, list[float]] = {}
    for name, node in nodes.items():
        both = seconds.setdefault(name.split(SIGN)[0], [0.0, 0.0])
        both[node["state"] not in BUILT] += node["wall_seconds"]
    built, stored = (sum(both[i] for both in seconds.values()) for i in (0, 1))
    most = max((sum(both) for both in seconds.values()), default=0.0) or 1.0
    rows = [
        {
            "name": name,
            "seconds": number(sum(both), digits=3),
            "built": round(100 * both[0] / most, 2),
            "stored": round(100 * both[1] / most, 2),
        }
        for name, both in seconds.items()
        if sum(both) >= LEAST_SHARE * most
    ]
    sentence = f"This run built for {number(built, digits=3)} s, all nodes together."
    if stored:
        sentence += f" What came from the store had taken {number(stored, digits=3)} s."
    if len(seconds) > len(rows):
        sentence += f" {len(seconds) - len(rows)} nodes of no weight have no line."
    parts = [(name, found) for name, a in folders.items() if (found := _parts(name, nodes, a))]
    return {"rows": rows, "sentence": sentence, "parts": parts}


def _parts(
    name: str, nodes: Mapping[str, Mapping[str, Any]], artifact: Artifact
) -> list[dict[str, Any]]:
    """Return the parts of a training's seconds with their shares in percent; [] for none."""
    rows = logged_rows(artifact)
    sums = {part: sum(row[part] for row in rows if is_finite(row.get(part))) for part in PARTS}
    if not any(sums.values()):
        return []
    total = max(float(nodes[name]["wall_seconds"]), sum(sums.values()))
    sums["other"] = total - sum(sums.values())
    words = {**PARTS, "other": "the rest: loading, writing, publishing"}
    return [
        {
            "name": words[part],
            "seconds": number(value, digits=3),
            "share": round(100 * value / total, 1),
            "colour": f"c{place}" if part in PARTS else "c7",
        }
        for place, (part, value) in enumerate(sums.items())
        if value > 0
    ]
