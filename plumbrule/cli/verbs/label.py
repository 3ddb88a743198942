"""`plumbrule label`: people rank the answers that a feedback node awaits, on a local web page."""

from __future__ import annotations

import argparse
import importlib
import shlex
from pathlib import Path

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ArtifactError
from plumbrule.results.store_names import find_run, runs
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.claims import BUILD
from plumbrule.store.file_names import LABELLING
from plumbrule.store.json_files import read_json
from plumbrule.store.layout import kind_folder, store_root
from plumbrule.store.manifests import is_inside


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", help="a run that waits for labels, or a feedback's fingerprint")
    parser.add_argument("--annotator", help="one plain word; default: the page asks")
    parser.add_argument("--host", default="127.0.0.1", help="others than this machine need a token")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Serve the page until it is stopped.

    Raises: ArtifactError: `what` awaits no labels. ConfigError: an option, or no web server here.
    """
    store = store_of(options)
    folder = labels_of(store, options.what)
    serve = importlib.import_module("rlhf.feedback.people.server").serve
    serve(folder, options.annotator, options.host, options.port, command_awaiting(store, folder))


def labels_of(store: Store, what: str) -> Path:
    """Return the folder of questions that a run, or a feedback artifact, finished or not, asks.

    Raises: ArtifactError: `what` is neither, or asks no one, or asks several folders.
    """
    named = find_run(store, what)
    if named is None:
        name = what.removeprefix("artifacts/").removeprefix("feedback/")
        folders = _feedback(store, name) if name else []
    else:
        nodes = named[1].get("nodes", {}).values()
        folders = [store.root / n["artifact"] for n in nodes if n["kind"] == "feedback"]
    asking = [artifact for artifact in map(Artifact.at, folders) if artifact.has(LABELLING)]
    found = {store.root / _labels(artifact.file(LABELLING)) for artifact in asking}
    if named is not None and "awaits" in named[1]:
        found.add(store.root / named[1]["awaits"])
    if len(found) != 1:
        raise ArtifactError(
            f"{what!r} must ask people for labels in one folder of {store.root}, not {len(found)}; "
            "give a run that ended with feedback.labeller=person, or its feedback's fingerprint."
        )
    return found.pop()


def _feedback(store: Store, name: str) -> list[Path]:
    """Return the folders of feedback, finished or not, whose fingerprint begins with `name`."""
    kind = kind_folder(store.root, "feedback")
    unfinished = kind.glob(f"{name}*{BUILD}/*/")
    finished = [path for path in kind.glob(f"{name}*/") if not path.name.endswith(BUILD)]
    return [*finished, *(path for path in unfinished if not path.name.startswith("."))]


def _labels(path: Path) -> str:
    """Return where, from the store, the questions of a feedback lie.

    Raises: ArtifactError: its pointer is damaged.
    """
    try:
        folder = read_json(path)["labels"]
        if is_inside(folder):
            return folder
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ArtifactError(
        f"{path} must say where the questions of its artifact lie, as labels/<name>; run the same "
        "command again."
    )


def command_awaiting(store: Store, folder: Path) -> str | None:
    """Return the command of the newest run that waits for labels in `folder`, None if none does."""
    awaits = str(folder.relative_to(store.root))
    for _, record in reversed(runs(store)):
        if record.get("awaits") == awaits:
            usual = Store(store_root(None)).root
            where = [] if usual == store.root else [f"run.store={store.root}"]
            return shlex.join(["plumbrule", *record["overrides"], *where])
    return None
