"""`plumbrule gather`: a sweep, or any runs, as tables with intervals and one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import TrainingError
from plumbrule.results.formats import pruned_lines, text_lines, unfinished_lines
from plumbrule.results.gathered import gather, write


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument(
        "what", nargs="*", help="a sweep's id or folder; or runs: ids, a name, a pattern"
    )
    parser.add_argument("--metric", action="append", default=[], help="default: the headline")
    parser.add_argument("--baseline", help="a group, as ppo.kl.coef=0.05; pairs seeds with it")
    parser.add_argument("--to", help="a folder for the files; default: gathered/ in the store")
    parser.add_argument("--wandb", action="store_true", help="the table as an artifact to W&B, too")
    parser.add_argument("--json", action="store_true", help="print the table's rows as JSON")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Print what is not done, then the table, and write the files.

    Raises: TrainingError: a cell is not done. ArtifactError, ConfigError: as `gather`.
    """
    store = store_of(options)
    found = gather(store, options.what, options.metric, options.baseline)
    for line in unfinished_lines(found.cells):
        print(line, file=sys.stderr, flush=True)
    if not found.table.empty:
        if options.json:
            print(found.table.to_json(orient="records"))
        else:
            print("\n".join(text_lines(found.table, options.metric or found.shown)))
            print("".join(f"{line}\n" for line in pruned_lines(found.cells)), end="")
            for name, sign in found.collapsed:
                print(f"collapsed: {name}: {sign}")
    folder = Path(options.to) if options.to else store.root / "gathered" / found.name
    write(found, store, folder)
    print(f"tables and page: {folder}", file=sys.stderr)
    if options.wandb:
        from plumbrule.results.wandb_table import send

        send(found, folder, lambda line: print(line, file=sys.stderr))
    if found.unfinished:
        raise TrainingError(
            f"{len(found.unfinished)} of {len(found.cells)} cells are not done; what reruns each "
            "stands above."
        )
