"""`plumbrule store`: a live store of documents is added to, changed, searched and counted."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from plumbrule.cli.messages import say
from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ConfigError

ACTIONS = {
    "add": "documents of files or folders; makes the store where there is none",
    "update": "documents of files or folders, in the place of those with their ids",
    "delete": "documents by id",
    "search": "by a query, for a principal",
    "stats": "what it holds",
    "compact": "purge what was removed; earlier commits can't be read any more",
}
SETTINGS = {
    "by": (str, "words, tokens, sentences, structure or semantic"),
    "chunk-words": (int, "words of a chunk"),
    "overlap-words": (int, "words that a chunk repeats"),
    "tokens": (int, "tokens of a chunk, with --by tokens"),
    "overlap-tokens": (int, "tokens that a chunk repeats"),
    "tokenizer": (str, "folder with a tokenizer.json"),
    "sentences": (int, "sentences of a chunk, with --by sentences"),
    "breaks": (float, "share of the places between sentences, with --by semantic"),
    "encoder": (str, "hashing, or a sentence-transformers folder or hub name"),
    "encoder-revision": (str, "40-digit commit of a hub name"),
    "dimensions": (int, "of hashing's vectors"),
    "dense-index": (str, "type of the dense index"),
}
"""Of a new store: option -> its type and what it is; a later one must agree with them."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    what = "; ".join(f"{action}: {meaning}" for action, meaning in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, help=what)
    parser.add_argument("name", help="of the store: letters, digits, _, . and -")
    parser.add_argument("words", nargs="*", metavar="what", help="files, ids or the query")
    parser.add_argument("--readers", nargs="+", default=[], help='principals; "*": everyone')
    parser.add_argument("--as", dest="principal", help="the principal that searches")
    parser.add_argument("--groups", nargs="+", default=[], help="that the principal belongs to")
    parser.add_argument("--method", default="hybrid", help="bm25, dense or hybrid")
    parser.add_argument("--filter", help="of a search, such as '{year: {min: 1990}}'")
    parser.add_argument("-k", type=int, default=5, help="passages")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for option, (kind, meaning) in SETTINGS.items():
        parser.add_argument(f"--{option}", type=kind, help=f"of a new store: {meaning}")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Do it and print.

    Raises: ConfigError: words that the action does not take. As `rag.store.commands`.
    """
    require_words(options)
    commands = importlib.import_module("rag.store.commands")
    root, name, words = store_of(options).root, options.name, options.words
    if options.action in ("add", "update"):
        given = {key.replace("-", "_"): None for key in SETTINGS}
        given = {key: getattr(options, key) for key in given}
        paths = [Path(word) for word in words]
        print(commands.change(root, name, options.action, paths, options.readers, given, say))
    elif options.action == "delete":
        print(commands.delete(root, name, words, say))
    elif options.action == "compact":
        print(commands.compact(root, name))
    elif options.action == "stats":
        show(commands.stats(root, name), options.json)
    else:
        how = (options.k, options.principal, options.method, options.groups, options.filter, say)
        show_passages(commands.search(root, name, " ".join(words), *how), options.json)


def require_words(options: argparse.Namespace) -> None:
    """Raise ConfigError unless an action has what it needs, and nothing else."""
    action, words = options.action, options.words
    if (action in ("stats", "compact")) == bool(words):
        needs = {"delete": "ids of documents", "search": "a query"}.get(action, "files or folders")
        fix = "take the rest out" if words else f"add {needs}"
        raise ConfigError(
            f"store {action} (={len(words)} words behind the name) must have "
            f"{'none' if words else needs}; {fix}."
        )
    if (action == "search") != (options.principal is not None):
        fix = "add --as <principal>" if action == "search" else "take --as out"
        raise ConfigError(
            f"--as (={options.principal}) must name the principal of a search, and stand nowhere "
            f"else; {fix}."
        )
    if action != "search" and options.filter is not None:
        raise ConfigError(
            f"--filter (={options.filter}) must stand with store search alone; take it out."
        )


def show(about: dict[str, Any], as_json: bool) -> None:
    """Print figures, one a line or as JSON."""
    if as_json:
        print(json.dumps(about))
        return
    for name, value in about.items():
        print(f"{name.replace('_', ' '):<30} {value}")


def show_passages(found: list[dict[str, Any]], as_json: bool) -> None:
    """Print passages, best first."""
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for row in found:
        where = [f"page {row['page']}" if row["page"] else "", row["section"], row["url"] or ""]
        place = ", ".join(part for part in where if part)
        print(f"{row['score']:.4f}  {row['id']}" + (f"  ({place})" if place else ""))
        print(f"    {' '.join(row['text'].split())}")
    if not found:
        print("no passage")
