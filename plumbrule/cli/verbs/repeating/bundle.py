"""`plumbrule bundle`: a run as one archive for a reviewer."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbrule.bundles.contents import write_bundle
from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ArtifactError
from plumbrule.results.store_names import one_run


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", help="a run's id, the beginning of one, or its folder")
    parser.add_argument("--to", help="the archive; default: <name>-<id>.zip here")
    parser.add_argument("--weights", action="store_true", help="models and indexes, too")
    parser.add_argument("--data", action="store_true", help="records, passages, rollouts, too")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Write the archive and say what it holds.

    Raises: ArtifactError: no run, several, or as `write_bundle`; the archive is there already.
    """
    store = store_of(options)
    folder, record = one_run(store, options.what)
    to = Path(options.to or f"{folder.parent.name}-{folder.name}.zip").resolve()
    if to.exists():
        raise ArtifactError(f"--to (={to}) must not be there yet; remove it, or name another.")
    made = write_bundle(store, folder, record, to, options.weights, options.data)
    left_out = ", ".join(f"{n} of {sort}" for sort, n in made.left_out.items()) or "none"
    print(f"{made.path}: {made.files} files, {to.stat().st_size / 1e6:,.1f} MB")
    print(f"  sha256    {made.sha256}")
    print(f"  left out  {left_out}" + ("; --weights and --data add them" if made.left_out else ""))
    print(f"  check     plumbrule check {to.name}")
