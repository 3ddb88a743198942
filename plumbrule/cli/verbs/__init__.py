"""Verbs: what is asked of a store rather than composed by Hydra, a module for each.

The module `plumbrule/cli/verbs/<verb>.py`, or that of a folder in `FOLDERS`, has two functions:

    def arguments(parser): ...    # what may stand behind the verb
    def run(options): ...         # do it and print; a PlumbruleError becomes the exit code

It is imported when its verb is asked for, so no other verb waits for what it needs.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from typing import NoReturn

from plumbrule.errors import ConfigError
from plumbrule.results.nearest_names import nearest
from plumbrule.store.artifacts import Store
from plumbrule.store.layout import VARIABLE, store_root

VERBS = {
    "ls": "list runs, newest last, or artifacts with --artifacts",
    "show": "print a run or an artifact",
    "gather": "put the cells of a sweep, or runs, into tables and a page",
    "best": "say which group of a sweep is best by a metric",
    "diff": "say in what two runs differ: settings, data, code, versions, metrics",
    "rerun": "compose a recorded run again, say what differs, and run it",
    "bundle": "write a run as one archive for a reviewer",
    "check": "verify such an archive and compute its tables again from its items",
    "submit": "start a command and leave it; it outlives the terminal",
    "watch": "follow a run that is being built",
    "tag": "give a run words by which ls finds it",
    "accept": "let an artifact stand for changed code that makes the same bytes",
    "gc": "delete artifacts that no run refers to",
    "rollouts": "write the rollouts that a PPO kept as a page to look through",
    "replay": "compute a PPO's kept rollouts again, offline",
    "label": "rank answers on a local web page",
    "store": "add to a live store of documents, change it, search it",
    "merge": "write a policy with an adapter as a plain model",
    "convert": "write a GGUF, or a model in another dtype, as a plain model",
    "paper": "run a paper's sweeps, and say which of its claims hold",
    "power": "say how many seeds or prompts would show an effect",
    "doc": "say what a setting is, or a group of them",
}
"""Verb, which its module is named after -> what it does."""
FOLDERS = {"rerun": "repeating", "bundle": "repeating", "check": "repeating"}
"""Verb -> the folder of its module, of those that do not lie here."""
OF_A_COMMAND = ("submit",)
"""Verbs behind which the words of a command stand, its options too; they have none of their own."""


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit code.

    Args: arguments: the verb, one of `VERBS`, and what stands behind it.
    Raises: ConfigError: words that the verb does not take, or lacks. Whatever the verb raises.
    """
    name, *words = arguments
    verb = importlib.import_module(".".join(filter(None, (__name__, FOLDERS.get(name), name))))
    parser = VerbParser(prog=f"plumbrule {name}", description=VERBS[name])
    verb.arguments(parser)
    if name in OF_A_COMMAND and words[:1] not in (["-h"], ["--help"]):
        verb.run(argparse.Namespace(words=words))
        return 0
    options, rest = parser.parse_known_intermixed_args(words)
    if rest:
        known = dict.fromkeys(re.findall(r"(?<![\w-])--?[a-z][\w-]*", parser.format_help()))
        dashed = [word for word in rest if word.startswith("-")]
        hint = f"{nearest(dashed[0].split('=')[0], known)[:-1]}; " if dashed else ""
        parser.error(f"unknown arguments: {' '.join(rest)}; {hint}see {parser.prog} --help")
    verb.run(options)
    return 0


class VerbParser(argparse.ArgumentParser):
    """Words behind a verb; what is wrong with them is one line, as every other error is."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with what argparse found wrong."""
        lacking = "the following arguments are required: "
        if message.startswith(lacking):
            usage = self.format_usage()  # argparse also names words that may be left out
            names = message.removeprefix(lacking).split(", ")
            named = ", ".join(name for name in names if f"[{name} ...]" not in usage)
            raise ConfigError(f"{self.prog} must be given: {named}; see {self.prog} --help.")
        told = message if "--help" in message else f"{message}; see {self.prog} --help"
        raise ConfigError(f"{self.prog}: {told.removesuffix('.')}.")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Let a verb be told its store."""
    parser.add_argument("--store", default=None, help=f"default: ${VARIABLE}, else here")


def store_of(options: argparse.Namespace) -> Store:
    """Return the store that a verb was told."""
    return Store(store_root(options.store))
