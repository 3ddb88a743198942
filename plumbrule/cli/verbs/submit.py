"""`plumbrule submit`: start a command and leave it; it outlives the terminal."""

from __future__ import annotations

import argparse
import shlex
import sys

from plumbrule.cli.messages import say
from plumbrule.cli.submitted import Started, start
from plumbrule.errors import ConfigError
from plumbrule.store.layout import store_root


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb; all of it is the command's."""
    parser.add_argument("words", nargs="*", help="of a command, as ppo.kl.coef=0.1 or -m seed=0,1")


def run(options: argparse.Namespace) -> None:
    """Start the command, print its plan and how it is followed, and leave.

    Raises: ConfigError: a launcher of another kind. SystemExit: the command ended at once, with
    its code.
    """
    others = [
        word
        for word in options.words
        if word.startswith("hydra/launcher=") and word != "hydra/launcher=plumbrule"
    ]
    if others:
        raise ConfigError(
            f"submit (={others[0]}) must leave hydra/launcher to plumbrule; take it out, and "
            "choose who builds with executor=local, ray or slurm."
        )
    found = start(options.words)
    sys.stdout.write(found.printed)
    sys.stdout.flush()
    if isinstance(found, Started):
        print("\n".join(followed(found, "-m" in options.words or "--multirun" in options.words)))
        return
    if found.code:
        sys.exit(found.code)
    say("it has ended: there was nothing to leave running")


def followed(found: Started, sweep: bool) -> list[str]:
    """Return the lines that say where a started command goes on and how to follow it."""
    own = str(found.store) == str(store_root(None))
    store = "" if own else f" --store {shlex.quote(str(found.store))}"
    own_id = found.name.rpartition("/")[2]
    follow = f"tail -f {shlex.quote(str(found.log))}"
    if not sweep:
        follow = f"plumbrule watch {own_id}{store}"
    return [
        f"submitted {found.name}, process {found.pid}; it goes on without this terminal",
        f"  log     {found.log}",
        f"  follow  {follow}",
        f"  gather  plumbrule gather {own_id}{store}",
        f"  stop    kill {found.pid}",
    ]
