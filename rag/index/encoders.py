"""Encoders: texts to vectors of unit length, and the one module that imports sentence-transformers.

An index keeps a copy of its encoder (`encoder/` in the artifact), so that opening it needs no
network and no path of the machine that built it, and a query can never meet another encoder than
the passages met.

A neural encoder is a sentence-transformers folder, or a hub repository at a fixed commit. Only
safetensors weights are read: a folder that would be read from a pickle is refused before it is
read, and files of that kind are not downloaded. Code that comes with a model is never run. Weights
are read as float32, or as bfloat16 where `rag.precision` says so. Prefixes such as `query: ` are
taken from the folder's own `config_sentence_transformers.json`, where it states any. Its vectors
depend on how texts are batched in the last bits; the hashing encoder's don't.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from safetensors import SafetensorError

from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store.artifacts import sha256
from plumbrule.store.fingerprint import digest
from plumbrule.store.json_files import read_json
from plumbrule.store.model_files import model_damage
from rag.index.hash_encoder import HashingEncoder
from rag.options import ENCODERS

NEURAL = "sentence-transformers"
NOT_DOWNLOADED = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.h5", "*.msgpack", "*.ot", "*.py"] + [
    f"{folder}/*" for folder in ("onnx", "openvino", "coreml")
]
NAMES_MODULES = ("modules.json", "router_config.json", "config.json")
"""Files of a model's folder that may name classes."""
QUERY_BATCH = 64
READ_ERRORS = (SafetensorError, OSError, ValueError, ImportError, KeyError, RuntimeError)
"""What damaged or unsuitable model files raise."""


class Encoder(Protocol):
    """Turns passages and queries into vectors whose inner product says how near they are."""

    @property
    def dimensions(self) -> int:
        """Return the length of a vector."""

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, dimensions) float32 vectors of unit length, or zero."""

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, dimensions) float32 vectors of unit length, or zero."""

    def num_cut(self, texts: Sequence[str]) -> int:
        """Return how many texts are longer than the encoder reads."""

    def save(self, folder: Path) -> None:
        """Write all that `load_encoder` needs."""


class FittedEncoder(Encoder, Protocol):
    """An encoder that is fitted on the passages: what an entry of `ENCODERS` makes."""

    @classmethod
    def fit(cls, texts: Sequence[str], dimensions: int) -> FittedEncoder:
        """Return the encoder for an index of `texts`, with vectors of that many dimensions."""

    @classmethod
    def load(cls, folder: Path) -> FittedEncoder:
        """Return the encoder that `save` wrote. Raises: one of `READ_ERRORS`: it is damaged."""


OURS: tuple[type[FittedEncoder], ...] = (HashingEncoder,)
"""Those that `ENCODERS` names: what is imported here is part of the stage's code."""


class NeuralEncoder:
    """A sentence-transformers model."""

    def __init__(self, model: Any, precision: str = "float32"):
        self._model, self._precision = model, precision

    @property
    def dimensions(self) -> int:
        """Return the length of a vector."""
        return self._model.get_embedding_dimension()

    @property
    def model(self) -> Any:
        """Return the SentenceTransformer."""
        return self._model

    @property
    def properties(self) -> dict[str, Any]:
        """Return what decides a vector beside the weights, as `fingerprint.json` states it."""
        from sentence_transformers.sentence_transformer.modules import Pooling

        modes = [str(part.pooling_mode) for part in self._model if isinstance(part, Pooling)]
        return {
            "pooling": "+".join(modes) or "none",
            "prefixes": {name: text for name, text in self._model.prompts.items() if text},
            "normalised": True,
            "max_tokens": self._model.max_seq_length,
            "precision": self._precision,
        }

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, dimensions) float32 vectors of unit length, encoded as one batch."""
        return self._encode(self._model.encode_document, texts, len(texts))

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, dimensions) float32 vectors of unit length."""
        return self._encode(self._model.encode_query, texts, QUERY_BATCH)

    def num_cut(self, texts: Sequence[str]) -> int:
        """Return how many texts have more tokens than the model reads, its prefix not counted."""
        limit = self._model.max_seq_length
        rows = self._model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return 0 if limit is None else sum(len(row) > limit for row in rows)

    def save(self, folder: Path) -> None:
        """Write a sentence-transformers folder with safetensors weights."""
        self._model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)

    def _encode(self, encode: Any, texts: Sequence[str], batch_size: int) -> np.ndarray:
        vectors = encode(
            list(texts),
            batch_size=max(batch_size, 1),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=self._precision == "float32",
        )
        vectors = np.asarray(vectors, dtype=np.float32).reshape(len(texts), self.dimensions)
        if self._precision != "float32":  # bfloat16 has not the digits of a unit length
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.where(lengths > 0, lengths, 1.0)
        return vectors


def properties_of(encoder: Encoder) -> dict[str, Any]:
    """Return what decides an encoder's vectors beside its files."""
    if isinstance(encoder, NeuralEncoder):
        return encoder.properties
    return {"pooling": "none", "prefixes": {}, "normalised": True}


def content_of(folder: Path) -> str:
    """Return a digest of the names and bytes of the files under `folder`, 16 hex digits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): sha256(path) for path in files})


def make_encoder(
    name: str,
    revision: str | None,
    dimensions: int,
    texts: Sequence[str],
    device: str,
    precision: str = "float32",
) -> tuple[str, Encoder]:
    """Return (kind, encoder): one of `ENCODERS` fitted on `texts`, or the neural one of that name.

    Args: precision: float32 or bfloat16, of a neural one.
    Raises: ConfigError: no such folder, hub name or revision, or it can't be read as described.
    """
    if name in ENCODERS:
        return name, ENCODERS[name].fit(texts, dimensions)
    folder = Path(name)
    if not folder.is_dir():
        otherwise = f", or use one that needs none: {', '.join(ENCODERS)}"
        folder = repository_folder(name, revision, "rag.encoder", otherwise)
    try:
        return NEURAL, _open(folder, device, precision)
    except READ_ERRORS as error:
        raise ConfigError(
            f"rag.encoder (={name}) must be a sentence-transformers folder with safetensors "
            f"weights and no code of its own; it can't be read: {_first_line(error)}"
        ) from error


def load_encoder(kind: str, folder: Path, device: str, precision: str = "float32") -> Encoder:
    """Return the encoder that an index was built with.

    Raises: ArtifactError: its files are damaged. ConfigError: a plug-in's that is not loaded.
    """
    try:
        if kind == NEURAL:
            return _open(folder, device, precision)
        return ENCODERS[kind].load(folder)
    except READ_ERRORS as error:
        raise ArtifactError(
            f"encoder {folder} can't be read ({_first_line(error)}); build the index again."
        ) from error


def _open(folder: Path, device: str, precision: str) -> NeuralEncoder:
    """Return the model in `folder`.

    Raises: ValueError: weights that only a pickle holds, that are damaged, missing or read by
        nobody, or code of the model's own. ConfigError: a device that is not there.
    """
    damaged = model_damage(folder)
    if damaged is not None:
        raise ValueError(damaged)
    require_known_modules(folder)
    for pickled in sorted(folder.rglob("pytorch_model*.bin")):
        if not any(pickled.parent.glob("*.safetensors")):
            name = pickled.relative_to(folder)
            raise ValueError(f"{name} is a pickle; convert it to safetensors")
    import torch
    from sentence_transformers import SentenceTransformer

    from plumbrule.lm.weights import require_whole_encoder

    model = SentenceTransformer(
        str(folder),
        device=device_of(device),
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": getattr(torch, precision)},
    )
    parts = folder / "modules.json"
    paths = [""]
    if parts.is_file():
        paths = [part["path"] for part in read_json(parts)]
    for path, module in zip(paths, model, strict=False):
        if hasattr(module, "auto_model"):  # the part that transformers reads
            require_whole_encoder(cast(Any, module).auto_model, folder / path)
    return NeuralEncoder(model.eval(), precision)


def device_of(device: str) -> str:
    """Return the device that `runtime.device` names: auto is cuda if there is one.

    Raises: ConfigError: a device that is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"runtime.device (={device}) must be a device of this machine, which has no CUDA; "
            "use runtime.device=auto or cpu."
        )
    return device


def require_known_modules(folder: Path) -> None:
    """Raise ValueError for a part of the model that is no class of sentence-transformers.

    Before 6.0 it imports one from a folder on this machine whatever `trust_remote_code` says.
    """
    for path in sorted(p for name in NAMES_MODULES for p in folder.rglob(name)):
        found = read_json(path)
        parts = found if isinstance(found, list) else []  # of modules.json
        named = [part.get("type") for part in parts if isinstance(part, dict)]
        if isinstance(found, dict) and isinstance(found.get("types"), dict):  # of a router
            named += found["types"].values()
        for name in named:
            if not str(name).startswith("sentence_transformers."):
                at = path.relative_to(folder)
                raise ValueError(f"{at} names code of its own (={str(name)[:80]})")


def repository_folder(name: str, revision: str | None, setting: str, otherwise: str = "") -> Path:
    """Return the local folder of a hub repository at a commit, from the cache where it is there.

    Args: setting: that names it, and otherwise: what else helps, for the error.
    Raises: ConfigError: it is neither cached nor to be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=NOT_DOWNLOADED))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{setting} (={name}, revision {revision}) must be on the hub or in its cache "
            f"({_first_line(error)}); check the name and the network{otherwise}."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
