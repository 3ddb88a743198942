"""`plumbrule gc`: delete artifacts that no run refers to."""

from __future__ import annotations

import argparse
import sys

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ConfigError
from plumbrule.results.unused import Unused, remove, unused_artifacts


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("--dry", action="store_true", help="list them and delete nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """List what nothing refers to with its bytes, ask, and delete it.

    Raises: ConfigError: nobody is there to be asked, or something is being built.
    """
    store = store_of(options)
    found = unused_artifacts(store)
    for one in found:
        print(f"{one.size:>15,} bytes  {one.folder.relative_to(store.root)}")
    what = described(found)
    if not found or options.dry:
        print(f"{what} that nothing refers to" + ("; nothing was deleted" if found else ""))
        return
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError("gc must be told --yes where nobody can be asked, or --dry.")
        if input(f"delete {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return
    print(f"deleted {described(remove(store, found))}")


def described(found: list[Unused]) -> str:
    """Return how many artifacts these are, and their bytes."""
    return f"{len(found)} artifacts, {sum(one.size for one in found):,} bytes"
