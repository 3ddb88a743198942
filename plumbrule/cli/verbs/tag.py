"""`plumbrule tag`: words by which a run is found again."""

from __future__ import annotations

import argparse

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ArtifactError
from plumbrule.results.store_names import find_run
from plumbrule.results.tags import change_tags


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", help="a run's id or folder")
    parser.add_argument("tags", nargs="*", help="words to give it")
    parser.add_argument("--remove", action="append", default=[], help="a word to take from it")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Change the tags and print those that it has. Raises: ArtifactError, ConfigError."""
    store = store_of(options)
    found = find_run(store, options.what)
    if found is None:
        raise ArtifactError(
            f"{options.what!r} must be a run of {store.root}; plumbrule ls lists them."
        )
    print(" ".join(change_tags(found[0], options.tags, options.remove)))
