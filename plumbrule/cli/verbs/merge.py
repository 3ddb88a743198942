"""`plumbrule merge`: a policy with an adapter written as a plain Hugging Face model."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ArtifactError
from plumbrule.pipeline.stages import POLICY_KINDS
from plumbrule.results.store_names import find_artifact, find_run
from plumbrule.store.adapter_files import is_adapter_folder
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.file_names import MODEL


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", help="an artifact's fingerprint, a run, or a model's folder")
    parser.add_argument("--to", required=True, help="a folder that is new or empty")
    parser.add_argument("--node", help="of a run; default: its only one that has an adapter")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Write the plain model and print its folder. Raises: as `adapter_in` and `merge`."""
    merge = importlib.import_module("plumbrule.cli.merged_model").merge  # it needs torch
    merge(adapter_in(store_of(options), options.what, options.node), Path(options.to))
    print(options.to)


def adapter_in(store: Store, what: str, node: str | None) -> Path:
    """Return the folder of the adapter that a folder, an artifact or a run's node is.

    Raises: ArtifactError: `what` names none, or several; one that is no policy, is whole, or has
        changed since it was published.
    """
    given, published = Path(what), False
    named = find_run(store, what)
    if named is not None:
        nodes = named[1].get("nodes", {})
        folders = {
            name: store.root / about["artifact"] / MODEL
            for name, about in nodes.items()
            if about["kind"] in POLICY_KINDS and node in (None, name)
        }
        folders = {n: f for n, f in folders.items() if node or is_adapter_folder(f)}
        if len(folders) != 1:
            raise ArtifactError(
                f"run {what!r} must have one policy with an adapter, not {len(folders)}; give "
                f"--node, one of {', '.join(folders or nodes)}."
            )
        [folder] = folders.values()
        published = True
    elif given.is_dir():
        folder = given if is_adapter_folder(given) else given / MODEL
    else:
        manifest = find_artifact(store, what)
        if manifest.kind not in POLICY_KINDS:
            raise ArtifactError(
                f"{what!r} (={manifest.kind}) must be a policy ({', '.join(POLICY_KINDS)}); "
                "name one."
            )
        folder = store.folder(manifest.kind, manifest.fingerprint) / MODEL
        published = True
    if not is_adapter_folder(folder):
        raise ArtifactError(
            f"{what!r} must hold an adapter to be merged; {folder} "
            + ("is a whole model already." if folder.is_dir() else "is not there.")
        )
    return Artifact.at(folder.parent).file(MODEL) if published else folder
