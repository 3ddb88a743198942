"""What a result cost, counted alike in every stage: three numbers that methods can be held to.

cost/generated_tokens  sampled while training or for feedback; not those of an evaluation
cost/training_flops    2 per token and weight that is read or sampled, 6 where all of the model is
                       trained, 4 with adapters (Kaplan et al. 2020, arXiv:2001.08361, section 2.1);
                       attention, embeddings, heads and reward terms are left out
cost/labels            rankings to train on that someone or something judged (of feedback), or that
                       were trained on (of what learns from them); a total counts each that was

A stage reports its own. `total` adds up those of an artifact and of all that it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from plumbrule.errors import ArtifactError
from plumbrule.store.artifacts import MANIFEST, Artifact, Manifest, read_manifest
from plumbrule.store.input_names import is_of_slot
from plumbrule.store.layout import artifacts_of, find_artifact

if TYPE_CHECKING:
    from torch import nn

COSTS = ("generated_tokens", "training_flops", "labels")
READ, TRAINED, ADAPTED = 2, 6, 4
"""FLOPs per token and weight."""


def num_weights(module: nn.Module) -> int:
    """Return the weights that a token is multiplied with: matrices that are no embeddings."""
    from torch import nn

    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return sum(p.numel() for p in module.parameters() if p.ndim == 2 and id(p) not in tables)


def cost_metrics(**costs: float) -> dict[str, float]:
    """Return costs as headline metrics. Raises: ValueError: an unknown one."""
    if unknown := set(costs) - set(COSTS):
        raise ValueError(f"costs (={sorted(unknown)}) must be of {', '.join(COSTS)}.")
    return {f"cost/{name}": float(value) for name, value in costs.items()}


def inputs_of(artifact: Artifact) -> Mapping[str, str]:
    """Return the fingerprints of an artifact's inputs by slot; {} of a folder without manifest."""
    has_manifest = (artifact.path / MANIFEST).is_file()
    return read_manifest(artifact.path).inputs if has_manifest else {}


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
