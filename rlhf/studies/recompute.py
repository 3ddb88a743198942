"""The numbers of a published study, made again of the curves of the runs that it read.

`plumbrule check` calls this by name, as those of `eval/recompute.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from plumbrule.store.artifacts import Artifact
from plumbrule.store.fingerprint import first_defaults
from plumbrule.store.manifests import read_manifest
from rlhf.studies.config import OveroptimisationConfig
from rlhf.studies.overoptimisation import write_study


def overoptimisation(
    artifact: Artifact, inputs: Mapping[str, Artifact], out: Path
) -> Mapping[str, float]:
    """Fit the curves again; nothing where a run is not there."""
    manifest = read_manifest(artifact.path)
    if len(inputs) < len(manifest.inputs):
        return {}
    told = {**first_defaults()[OveroptimisationConfig.__name__], **manifest.config}
    names = [field.name for field in dataclasses.fields(OveroptimisationConfig)]
    return write_study(OveroptimisationConfig(**{n: told[n] for n in names}), inputs, out)
