"""A dense index on disk: which files a type writes, and how they are opened.

    rag.dense_index         files                       opened as
    flat                    index.faiss                 VectorIndex, exact
    exact                   vectors/                    ExactIndex, mapped into memory
    any other               index.faiss, vectors/       ApproximateIndex, both mapped into memory
    with rag.shards > 1     shards/<number>/ with those  ShardedIndex

`fingerprint.json` says under `dense` what was written; an index that an earlier version made says
nothing there and is a lone `index.faiss`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.config import require_range
from plumbrule.store.artifacts import Artifact
from rag.config import IndexConfig
from rag.index.approximate import ApproximateIndex
from rag.index.dense import VectorIndex
from rag.index.encoders import device_of
from rag.index.exact import ExactIndex
from rag.index.presets import DEFAULT_NOMINATED, PRESETS, from_factory, set_effort
from rag.index.protocol import VectorSearch
from rag.index.sharded import ShardedIndex
from rag.index.vector_checks import require_vectors
from rag.index.vector_files import save_vectors
from rag.options import DENSE_INDEXES, EXACT, FACTORY

VECTORS, STORED, SHARDS = "index.faiss", "vectors", "shards"
FLAT = "flat"


def save_dense(vectors: np.ndarray, config: IndexConfig, out: Path) -> dict[str, Any]:
    """Write the dense index of passages' vectors (n, d) float32; return what is to be said of it.

    Raises: ConfigError: vectors with NaN; a type that does not fit them; more shards than vectors.
    """
    (out / VECTORS).unlink(missing_ok=True)
    for name in (STORED, SHARDS):
        shutil.rmtree(out / name, ignore_errors=True)
    require_vectors(vectors)
    if config.shards == 1:
        return _saved(vectors, config, out)
    require_range("rag.shards", config.shards, 1, len(vectors), "indexes")
    shards = {}
    for number, part in enumerate(np.array_split(vectors, config.shards)):
        folder = out / SHARDS / f"{number:05d}"
        folder.mkdir(parents=True)
        shards[folder.name] = _saved(np.ascontiguousarray(part), config, folder)
    return {"shards": shards}


def _saved(vectors: np.ndarray, config: IndexConfig, out: Path) -> dict[str, Any]:
    """Write one index of vectors into a folder; return what is to be said of it."""
    if config.dense_index != FLAT:
        save_vectors([vectors], out / STORED)
    if config.dense_index == EXACT:
        return {"files": [STORED], "exact": True}

    def make(training: np.ndarray) -> Any:
        if config.dense_index == FACTORY:
            index = from_factory(config.dense_factory or "", training)
        else:
            index = DENSE_INDEXES[config.dense_index](training)
        if config.search_effort is not None:
            set_effort(index, config.search_effort)
        return index

    VectorIndex.build(vectors, make).save(out / VECTORS)
    if config.dense_index == FLAT:
        return {"files": [VECTORS], "exact": True}
    preset = PRESETS.get(config.dense_index)
    nominated = config.nominated or (preset.nominated if preset else DEFAULT_NOMINATED)
    return {
        "files": [VECTORS, STORED],
        "exact": False,
        "nominated": nominated,
        "bytes": (out / VECTORS).stat().st_size,
    }


def open_dense(
    artifact: Artifact, about: Mapping[str, Any], device: str, faiss_gpu: bool = False
) -> VectorSearch:
    """Return the dense index of an artifact.

    Args: about: what `save_dense` said; {}: an earlier version wrote it. device: where an exact
        index computes, as `runtime.device` names it. faiss_gpu: as `runtime.faiss_gpu` says.
    Raises: ArtifactError: a file is missing, damaged or cut short. ConfigError: no GPU for it.
    """
    if SHARDS in about:
        folder = artifact.file(SHARDS)
        parts = sorted(about[SHARDS].items())
        return ShardedIndex([_opened(folder / name, one, device, faiss_gpu) for name, one in parts])
    for name in about.get("files", [VECTORS]):
        artifact.file(name)
    return _opened(artifact.path, about, device, faiss_gpu)


def index_in_memory(vectors: np.ndarray, about: Mapping[str, Any], device: str) -> VectorSearch:
    """Return an exact index of vectors (n, d) float32, whose scores are those of an artifact's.

    Args: about, device: as `open_dense` takes them, of the artifact.
    """
    one = next(iter(about[SHARDS].values())) if SHARDS in about else about
    files = one.get("files", [VECTORS])
    if files == [VECTORS]:
        return VectorIndex.build(vectors)
    return ExactIndex([vectors], device_of(device) if files == [STORED] else "cpu")


def _opened(folder: Path, about: Mapping[str, Any], device: str, faiss_gpu: bool) -> VectorSearch:
    """Return the index that `_saved` wrote into a folder."""
    files = about.get("files", [VECTORS])
    if files == [VECTORS]:
        return VectorIndex.load(folder / VECTORS)
    if files == [STORED]:
        return ExactIndex.load(folder / STORED, device_of(device))
    size, nominated = int(about["bytes"]), int(about["nominated"])
    return ApproximateIndex.load(folder / VECTORS, size, folder / STORED, nominated, faiss_gpu)
