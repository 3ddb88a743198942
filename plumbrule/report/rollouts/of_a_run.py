"""The rollout pages that a run writes beside its report: of the PPO that it built, up to a size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbrule.errors import PlumbruleError
from plumbrule.report.rollouts.names import OF_A_RUN, page_name
from plumbrule.store.artifacts import Artifact

BUILT = ("built", "resumed")


def write_pages(
    record: Mapping[str, Any], folders: Mapping[str, Path], to: Path
) -> dict[str, str | None]:
    """Return PPO node -> its page's file in `to`; None: not written.

    Pages are written of what this run built, where that is at most `OF_A_RUN` rollouts in all: a
    cached run stays quick, and a large one is asked for with `plumbrule rollouts`.
    A page that can't be made ends no run: `plumbrule rollouts` says what is wrong.
    """
    nodes = record["nodes"]
    paths = {name: path for name, path in folders.items() if nodes[name]["kind"] == "ppo"}
    found: dict[str, str | None] = dict.fromkeys(paths)
    fresh = {n: Artifact.at(p) for n, p in paths.items() if nodes[n]["state"] in BUILT}
    if not fresh:
        return found
    from plumbrule.report.rollouts.files import count_rollouts
    from plumbrule.report.rollouts.page import render_rollouts

    if not 0 < sum(map(count_rollouts, fresh.values())) <= OF_A_RUN:
        return found
    for name, artifact in fresh.items():
        try:
            page = render_rollouts(artifact, f"{record['name']}/{record['id']} · {name}")
        except PlumbruleError:
            continue
        found[name] = page_name(name, len(paths) == 1)
        (to / str(found[name])).write_text(page.html, encoding="utf-8")
    return found
