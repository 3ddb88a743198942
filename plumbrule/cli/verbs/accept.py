"""`plumbrule accept`: let an artifact stand for changed code that makes the same bytes."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbrule.cli.composition import composed_config
from plumbrule.cli.messages import say
from plumbrule.cli.runs import new_run_id
from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ArtifactError
from plumbrule.overrides import as_override
from plumbrule.pipeline.compose import compose_run
from plumbrule.pipeline.execute import RunContext
from plumbrule.pipeline.planning.acceptance import accept
from plumbrule.pipeline.planning.accepted import record_path
from plumbrule.results.store_names import find_artifact, find_run, runs
from plumbrule.store.artifacts import Store
from plumbrule.store.layout import ARTIFACTS, RUNS


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", help="<kind>/<fingerprint>, or the beginning of a fingerprint")
    parser.add_argument("--run", help="that used it, by id; default: the newest that did")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Build the artifact's node under the present code and, if it has the same bytes, record it.

    Raises: ArtifactError: no run used the artifact, or the bytes differ. ConfigError: more than the
    code changed, or nothing did. Whatever the stage raises.
    """
    store = store_of(options)
    store.require_writable()
    old = find_artifact(store, options.what)
    folder, record, name = _user_of(store, f"{ARTIFACTS}/{old.kind}/{old.fingerprint}", options.run)
    say(f"accept: {name} of run {folder.parent.name}/{folder.name} under the present code")
    words = [word for word in record["overrides"] if not word.lstrip("+").startswith("run.store=")]
    composed = compose_run(composed_config([*words, _store_word(store)]))
    run_id = f"accept/{new_run_id()}"
    context = RunContext(run_id, store.root / RUNS / run_id, store, composed.config.runtime)
    found = accept(old, composed.nodes, name, context, say)
    path = record_path(store.root, found.kind, found.fingerprint).relative_to(store.root)
    print(
        f"accepted: {found.kind}/{found.stands_for_it} stands for "
        f"{found.kind}/{found.fingerprint}; all {len(found.files)} files are alike; "
        f"changed code: {', '.join(found.changed)}; recorded in {path}"
    )


def _store_word(store: Store) -> str:
    """Return the override that names a store, as Hydra reads it."""
    return shlex.split(as_override("run.store", str(store.root)))[0]


def _user_of(store: Store, artifact: str, named: str | None) -> tuple[Path, Mapping[str, Any], str]:
    """Return folder and record of a run that used an artifact, and what it calls the node.

    Raises: ArtifactError: there is none, or not the one that was named.
    """
    if named is not None:
        given = find_run(store, named)
        if given is None:
            raise ArtifactError(
                f"{named!r} must be a run of {store.root}; plumbrule ls lists them."
            )
        every = [given]
    else:
        every = runs(store)[::-1]
    for folder, record in every:
        for name, node in record.get("nodes", {}).items():
            if node["artifact"] == artifact:
                return folder, record, name
    which = named or f"no run of {store.root}"
    raise ArtifactError(
        f"{artifact} must have been used by a run, whose settings are those of the node, and "
        f"{which} {'did not use it' if named else 'did'}; name one with --run, or run the command "
        "again."
    )
