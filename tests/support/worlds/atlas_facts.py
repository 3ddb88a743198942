"""A small Atlas as artifacts, with the shipped base model: for stages that are given a new fact."""

from __future__ import annotations

import shutil
from pathlib import Path

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.datasets import records
from plumbrule.data.records import write_records
from plumbrule.store.artifacts import Artifact
from plumbrule.store.packaged_files import located

ATLAS = AtlasConfig(num_questions=60, num_new_facts=2400)


def data(folder: Path, role: str) -> Artifact:
    """Return the data artifact of a role."""
    folder.mkdir(parents=True)
    split = records(role, ATLAS)
    write_records(split.train, folder / "records.jsonl")
    write_records(split.validation, folder / "validation.jsonl")
    return Artifact.of(folder, "data")


def shipped_policy(folder: Path) -> Artifact:
    """Return the base model that comes with the project, as an artifact."""
    shutil.copytree(located("plumbrule/atlas-base"), folder / "model")
    return Artifact.of(folder, "base")
