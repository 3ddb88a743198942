"""Inputs that are not built here: an artifact of this store or another, or a model's folder.

`nodes.ppo.inputs.rm=rm/<fingerprint>` names one of the run's own store, and a folder with a
`manifest.json` one of any other; its kind and fingerprint stand in the manifest. What is not in the
store is copied there, each file held against its sha256, so that a run needs nothing outside its
store. Any other Hugging Face folder counts as a policy: a node of kind base takes it as it is, by
its content.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbrule.errors import ArtifactError, ConfigError, GraphError
from plumbrule.pipeline.graph import NodeConfig
from plumbrule.pipeline.stages import STAGES
from plumbrule.store.attempts import OWNER
from plumbrule.store.content_digests import SLOW
from plumbrule.store.layout import kind_folder
from plumbrule.store.manifests import MANIFEST, Manifest, file_damage, read_manifest


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
    kind, _, fingerprint = source.removeprefix("artifacts/").partition("/")
    if kind in STAGES and not path.is_dir():
        found = sorted(kind_folder(root, kind).glob(f"{fingerprint}*/{MANIFEST}"))
        if len(found) != 1 or not fingerprint:
            which = f"{len(found)} begin so" if found and fingerprint else "none begins so"
            raise GraphError(
                f"{setting} (={source}) must name one artifact of the store, and there {which}; "
                f"plumbrule ls --artifacts --kind {kind} lists them."
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
        model = {"name_or_path": str(path), "revision": None}  # as typed: records hold it
        return f"base/{path.resolve().name}", NodeConfig("base", set={"model": model})
    raise GraphError(
        f"{setting} (={source}) must be an artifact (kind/fingerprint, or a folder with "
        f"{MANIFEST}) or a model's folder (with config.json); check the path."
    )


def read_given(given: Given) -> Manifest:
    """Return the manifest of a given artifact. Raises: ConfigError: its folder is gone."""
    try:
        return read_manifest(Path(given.path))
    except FileNotFoundError:
        raise ConfigError(
            f"artifact (={given.path}) must still be there; run the same command again."
        ) from None


def require_whole(given: Given) -> None:
    """Raise ArtifactError unless each file of a given artifact is what its manifest says."""
    source = Path(given.path)
    for name, about in read_given(given).files.items():
        above = [source / part for part in Path(name).parents]
        linked = any(folder.is_symlink() for folder in above if folder != source)
        found = "lies behind a link" if linked else file_damage(source / name, about, SLOW)
        if found:
            raise _damaged(source, name, found)


def copy_files(given: Given, attempt: Path) -> Manifest:
    """Copy the files of a given artifact into an attempt and return its manifest.

    What earlier attempts have left there goes: nothing of it belongs to the artifact.
    Raises: ArtifactError: a file is not what the manifest says. ConfigError: the folder is gone.
    """
    source, manifest = Path(given.path), read_given(given)
    for left in attempt.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name != OWNER:
            left.unlink()
    for name, about in manifest.files.items():
        (attempt / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, attempt / name, follow_symlinks=False)
        if found := file_damage(attempt / name, about, SLOW):
            raise _damaged(source, name, found)
    return manifest


def _damaged(source: Path, name: str, how: str) -> ArtifactError:
    return ArtifactError(
        f"{source} is damaged: {name} {how}; copy it again from where it was made."
    )
