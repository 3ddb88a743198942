"""What a result cost: the costs of an artifact and of all that it was made from, each counted once.

What the costs are: `plumbrule/lm/cost_metrics.py`, with which each stage reports its own. Of
labels a total counts each ranking that was trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from plumbrule.errors import ArtifactError
from plumbrule.lm.cost_metrics import COSTS
from plumbrule.store.artifacts import Artifact
from plumbrule.store.input_names import is_of_slot
from plumbrule.store.layout import artifacts_of, find_artifact
from plumbrule.store.manifests import MANIFEST, Manifest, read_manifest


def input_of(artifact: Artifact, slot: str) -> str | None:
    """Return the fingerprint of an artifact's input; None where it has none of that name."""
    return read_manifest(artifact.file(MANIFEST).parent).inputs.get(slot)


def lineage(artifact: Artifact, slot: str | None = None) -> dict[str, Manifest]:
    """Return the manifests of an artifact and of all that it was made from, by fingerprint.

    Args: slot: of this input of the artifact instead, such as the policy of an evaluation.
    Raises: ArtifactError: one of them is no longer in the store.
    """
    artifacts = artifacts_of(artifact.path)
    found: dict[str, Manifest] = {}
    todo = [artifact.path.name]
    if slot is not None:
        todo = [fingerprint for fingerprint in [input_of(artifact, slot)] if fingerprint]
    while todo:
        fingerprint = todo.pop()
        if fingerprint in found:
            continue
        folder = find_artifact(artifacts, fingerprint)
        if folder is None:
            raise ArtifactError(
                f"{artifact.kind} artifact {artifact.path} was made from {fingerprint}, which the "
                "store no longer holds; run the same command to build it again."
            )
        found[fingerprint] = read_manifest(folder)
        todo += found[fingerprint].inputs.values()
    return found


def total(
    artifact: Artifact, slot: str | None = None, without: Collection[str] = ()
) -> dict[str, float]:
    """Return the costs of an artifact, or of one of its inputs, and of what it was made from.

    Each part is counted once.

    Args: slot: the input. without: fingerprints that are not counted, such as what methods share.
    """
    made_from = lineage(artifact, slot)
    manifests = [manifest for key, manifest in made_from.items() if key not in without]
    found = {
        name: sum(manifest.metrics.get(f"cost/{name}", 0.0) for manifest in manifests)
        for name in COSTS
    }
    return found | {"labels": _labels(manifests, made_from)}


def _labels(manifests: Sequence[Manifest], made_from: Mapping[str, Manifest]) -> float:
    """Return the rankings that some of the manifests' artifacts were trained on, each once.

    Of a source that several learned from, as many count as the one that used most of it can have.
    """
    used: dict[str, float] = {}
    for manifest in manifests:
        for slot, source in manifest.inputs.items():
            if is_of_slot(slot, "preferences") and source in made_from:
                metrics = made_from[source].metrics
                there = metrics.get("cost/labels", metrics.get("data/rows", 0.0))
                own = min(there, manifest.metrics.get("cost/labels", there))
                used[source] = max(used.get(source, 0.0), own)
    return sum(used.values())
