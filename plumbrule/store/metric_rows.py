"""The rows of a stage's `metrics.jsonl`: its metrics, one row per update."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plumbrule.store.file_names import METRIC_ROWS
from plumbrule.store.manifests import MOST


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a stage's metrics.jsonl, up to the first that is half-written or damaged.

    Of a published one `Artifact.file` has said before that none is.
    """
    path = out / METRIC_ROWS
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or type(row.get("update")) is not int:
            break
        if any(isinstance(value, int) and abs(value) > MOST for value in row.values()):
            break
        rows.append(row)
    return rows
