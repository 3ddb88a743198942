"""The rollout pages that a run writes beside its report: of the PPO that it built, up to a size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbrule.report.rollouts.names import OF_A_RUN, page_name
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import ROLLOUTS

BUILT = ("built", "resumed")


def write_pages(
    record: Mapping[str, Any], folders: Mapping[str, Path], to: Path
) -> dict[str, str | None]:
    """Return node -> its page's file in `to`, for each node that keeps rollouts; None: not written.

    Pages are written of what this run built, where that is at most `OF_A_RUN` rollouts in all: a
    cached run stays quick, and a large one is asked for with `plumbrule rollouts`.
    Raises: ArtifactError, DataError: a rollout that was just published is damaged.
    """
    kept = {
        n: artifact for n, path in folders.items() if (artifact := Artifact.at(path)).has(ROLLOUTS)
    }
    found: dict[str, str | None] = dict.fromkeys(kept)
    fresh = [name for name in kept if record["nodes"][name]["state"] in BUILT]
    if not fresh:
        return found
    from plumbrule.report.rollouts.files import count_rollouts
    from plumbrule.report.rollouts.page import render_rollouts

    counts = {name: count_rollouts(kept[name]) for name in fresh}
    if sum(counts.values()) > OF_A_RUN:
        return found
    for name in (name for name, count in counts.items() if count):
        page = render_rollouts(kept[name], f"{record['name']}/{record['id']} · {name}")
        found[name] = page_name(name, len(kept) == 1)
        (to / str(found[name])).write_text(page.html, encoding="utf-8")
    return found
