"""`plumbrule rollouts`: the rollouts that a PPO kept, as a page to look through."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ArtifactError, ConfigError, listed
from plumbrule.report.rollouts.choice import PICKS
from plumbrule.report.rollouts.names import LIMIT, page_name
from plumbrule.results.store_names import find_artifact, find_run
from plumbrule.store.artifacts import Artifact, Store

_UPDATES = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
MOST_UPDATES = 1_000_000
"""Updates that a range may name."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", help="a run with a node of kind ppo, or a ppo artifact")
    parser.add_argument("--node", help="one node of the run; default: each of kind ppo")
    parser.add_argument("--update", action="append", default=[], help="as 7 or 3-10; default: all")
    parser.add_argument("--limit", type=int, default=LIMIT, help="rollouts on a page at most")
    parser.add_argument("--pick", choices=PICKS, default=PICKS[0], help="prompts, beyond the limit")
    parser.add_argument("--to", help="a folder for the page; default: the run's, beside its report")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Write a page for each PPO that is named, and print its path and what it leaves out.

    Raises: ConfigError: an option. ArtifactError, DataError: the rollouts are gone, or damaged.
    """
    if options.limit < 1:
        raise ConfigError(f"--limit (={options.limit} rollouts) must be at least 1; raise it.")
    from plumbrule.report.rollouts.page import render_rollouts

    updates = wanted_updates(options.update)
    named, folder = artifacts_of(store_of(options), options.what, options.node)
    folder = Path(options.to) if options.to else folder
    folder.mkdir(parents=True, exist_ok=True)
    for node, artifact in named.items():
        page = render_rollouts(
            artifact,
            f"{options.what} · {node}" if node else artifact.fingerprint,
            updates=updates,
            limit=options.limit,
            pick=options.pick,
        )
        path = folder / page_name(node, options.node is None and len(named) == 1)
        path.write_text(page.html, encoding="utf-8")
        for note in page.notes:
            print(f"{node or 'ppo'}: {note}", file=sys.stderr)
        print(path)


def wanted_updates(words: Sequence[str]) -> list[int] | None:
    """Return the updates that options name, as 7 or 3-10; None: all.

    Raises: ConfigError: a word is neither.
    """
    found: set[int] = set()
    for word in words:
        ends = _UPDATES.fullmatch(word)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if not first <= last < first + MOST_UPDATES:
            raise ConfigError(f"--update (={word:.40}) must be an update or a range, as 7 or 3-10.")
        found |= set(range(first, last + 1))
    return sorted(found) or None


def artifacts_of(store: Store, what: str, node: str | None) -> tuple[dict[str, Artifact], Path]:
    """Return node -> PPO artifact of what is named ("": an artifact itself), and where pages go.

    Raises: ArtifactError: nothing is called so, it has no PPO, or an artifact is gone.
    """
    found = find_run(store, what)
    if found is None:
        manifest = find_artifact(store, what)
        if manifest.kind != "ppo":
            raise ArtifactError(f"{what!r} (={manifest.kind}) must be a ppo artifact; name one.")
        name = f"{manifest.kind}-{manifest.fingerprint}"
        artifact = Artifact.at(store.folder(manifest.kind, manifest.fingerprint))
        return {"": artifact}, store.root / "gathered" / name
    folder, record = found
    nodes = {n: about for n, about in record.get("nodes", {}).items() if about["kind"] == "ppo"}
    if node is not None and node not in nodes:
        names = listed(nodes) or "none"
        raise ConfigError(f"--node (={node}) must be a node of kind ppo (={names}); name one.")
    wanted = {n: about for n, about in nodes.items() if node in (None, n)}
    if not wanted:
        raise ArtifactError(
            f"run {what!r} must have a finished node of kind ppo to show its rollouts; name "
            "another, or the ppo artifact itself (plumbrule ls --artifacts)."
        )
    return {n: _there(store, n, about) for n, about in wanted.items()}, folder


def _there(store: Store, node: str, about: Mapping[str, str]) -> Artifact:
    path = store.root / about["artifact"]
    if not path.is_dir():
        raise ArtifactError(
            f"{about['artifact']} of node {node} is not in {store.root} any more; run the same "
            "command to build it again."
        )
    return Artifact.at(path)
