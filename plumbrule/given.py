"""Inputs that are not built here: an artifact of this store or another, or a model's folder.

`nodes.ppo.inputs.rm=rm/<fingerprint>` names one of the run's own store, and a folder with a
`manifest.json` one of any other; its kind and fingerprint stand in the manifest. What is not in the
store is copied there, each file held against its sha256, so that a run needs nothing outside its
store. Any other Hugging Face folder counts as a policy: a node of kind base takes it as it is, by
its content.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbrule.artifacts import MANIFEST, Manifest, Store, read_manifest, sha256
from plumbrule.errors import ArtifactError, ConfigError, GraphError
from plumbrule.graph import NodeConfig
from plumbrule.stages import STAGES


@dataclass(frozen=True)
class Given:
    """The config of a node that stands for an artifact which is there. path: its folder."""

    fingerprint: str
    path: str


def take_given(nodes: Mapping[str, NodeConfig], root: Path) -> dict[str, NodeConfig]:
    """Return the nodes with one more for each input that is written as a path, and named after it.

    Args: root: of the run's store.
    Raises: GraphError: nothing is there, or it is of no kind.
    """
    every = dict(nodes)
    for name, about in nodes.items():
        inputs = dict(about.inputs)
        for slot, source in about.inputs.items():
            if source is not None and "/" in source:
                inputs[slot], node = _node_of(f"nodes.{name}.inputs.{slot}", source, root)
                if node.kind == "base" and node.given is None:  # needs a corpus, and reads none
                    every.setdefault("corpus", NodeConfig("data", set={"role": "corpus"}))
                    node = dataclasses.replace(node, inputs={"corpus": "corpus"})
                every[str(inputs[slot])] = node
        if inputs != about.inputs:
            every[name] = dataclasses.replace(every[name], inputs=inputs)
    return every


def _node_of(setting: str, source: str, root: Path) -> tuple[str, NodeConfig]:
    """Return the name and the node of what `source` names."""
    path = Path(source).expanduser()
    kind, _, fingerprint = source.partition("/")
    if kind in STAGES and not path.is_dir():
        found = sorted((root / "artifacts" / kind).glob(f"{fingerprint}*/{MANIFEST}"))
        if len(found) != 1 or not fingerprint:
            state = "several artifacts" if found else "no artifact"
            raise GraphError(
                f"{setting} (={source}) must name one artifact of the store; {state} there begins "
                "so; see plumbrule ls --artifacts."
            )
        path = found[0].parent
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        if manifest.kind not in STAGES:
            raise GraphError(
                f"{setting} (={source}) must be of a kind known here, not {manifest.kind}."
            )
        name = f"{manifest.kind}/{manifest.fingerprint}"
        given = Given(manifest.fingerprint, str(path.resolve()))
        return name, NodeConfig(manifest.kind, given=given)
    if (path / "config.json").is_file():
        model = {"name_or_path": str(path.resolve()), "revision": None}
        return f"base/{path.resolve().name}", NodeConfig("base", set={"model": model})
    raise GraphError(
        f"{setting} (={source}) must be an artifact (kind/fingerprint, or a folder with "
        f"{MANIFEST}) or a model's folder (with config.json); check the path."
    )


def copy_into(store: Store, kind: str, given: Given) -> Manifest:
    """Return the manifest of a given artifact after copying it into the store, if it is not there.

    Raises: ArtifactError: a file is missing or is not what the manifest says. ConfigError: the
    folder is gone.
    """
    manifest = store.manifest(kind, given.fingerprint)
    if manifest is not None:
        return manifest
    source, target = Path(given.path), store.folder(kind, given.fingerprint)
    if not (source / MANIFEST).is_file():
        raise ConfigError(f"artifact (={source}) must still be there; run the same command again.")
    manifest = read_manifest(source)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, about in manifest.files.items():
            inside = Path(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise ArtifactError(
                    f"{source} is damaged: its manifest names {name}, outside of it."
                )
            if not (source / name).is_file():
                raise ArtifactError(f"{source} is damaged: {name} is missing; copy it again.")
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, partial / name)
            if sha256(partial / name) != about["sha256"]:
                raise ArtifactError(
                    f"{source} is damaged: the content of {name} is not that of its manifest; "
                    "copy it again from where it was made."
                )
        shutil.copyfile(source / MANIFEST, partial / MANIFEST)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target / MANIFEST).is_file():
            shutil.rmtree(target, ignore_errors=True)
            os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    published = store.manifest(kind, given.fingerprint)
    assert published is not None
    return published
