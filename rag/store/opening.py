"""Live stores that are made, and opened by name."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError

from plumbrule.errors import ArtifactError
from rag.chunking.config import TOKENIZER as TOKENIZER_FILE
from rag.chunking.tokens import open_tokenizer
from rag.index.encoders import Encoder, content_of, load_encoder, make_encoder
from rag.index.hash_encoder import BUCKETS, HALVES, HashingEncoder
from rag.options import HASHING
from rag.store.database import DATABASE, Database
from rag.store.live import ENCODER, TOKENIZER, LiveStore
from rag.store.naming import open_database, require_name, store_folder
from rag.store.segments import APPROXIMATE_FROM
from rag.store.settings import StoreSettings, settings_of

MAKING = "making.lock"


def make_store(
    root: Path,
    name: str,
    settings: StoreSettings,
    device: str = "cpu",
    approximate_from: int = APPROXIMATE_FROM,
) -> LiveStore:
    """Return a new, empty live store.

    Raises: ConfigError: a setting, or an encoder that can't be had. ArtifactError: there is one of
        that name.
    """
    require_name(name)
    settings.check()
    folder = store_folder(root, name)
    require_new(folder)  # before the encoder is made, which may take long
    kind, encoder = HASHING, cast(Encoder, plain_hashing(settings.dimensions))
    if settings.encoder != HASHING:
        kind, encoder = make_encoder(
            settings.encoder, settings.encoder_revision, settings.dimensions, [], device
        )
    source = tokenizer_of(settings)
    with _written(folder), _making(folder):
        require_new(folder)
        shutil.rmtree(folder / ENCODER, ignore_errors=True)  # of a store whose making was cut off
        encoder.save(folder / ENCODER)
        made = {"kind": kind, "content": content_of(folder / ENCODER)}
        about: dict[str, Any] = {"settings": settings.as_json(), "encoder": made}
        if source is not None:
            shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
            (folder / TOKENIZER).mkdir()
            shutil.copyfile(source, folder / TOKENIZER / source.name)
            about["tokenizer"] = content_of(folder / TOKENIZER)
        database = Database.create(folder / DATABASE, about)
    return LiveStore(folder, database, settings, encoder, approximate_from)


def tokenizer_of(settings: StoreSettings) -> Path | None:
    """Return the tokenizer's file that a store must keep; None: its chunker needs none.

    Raises: ConfigError: it can't be read.
    """
    if settings.chunker.tokenizer is None:
        return None
    source = Path(settings.chunker.tokenizer) / TOKENIZER_FILE
    if settings.chunker.by == "tokens":
        open_tokenizer(settings.chunker.tokenizer)
    return source if source.is_file() else None


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Raise ArtifactError for what can't be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} can't be written ({error!s:.200}); make room or give permission, and run "
            "the same command again."
        ) from error


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    """Hold the right to make the store in `folder`; whoever else wants it waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / MAKING, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_or_make(root: Path, name: str, settings: StoreSettings) -> LiveStore:
    """Return the live store of a name: a new one, or the one that is there, whatever it was made
    with.

    Of several processes at once one makes it, and the others open what it has made.
    Raises: as `make_store` and `open_store`.
    """
    if not is_there(store_folder(root, name)):
        try:
            return make_store(root, name, settings)
        except ArtifactError:
            if not is_there(store_folder(root, name)):
                raise
    return open_store(root, name)


def open_store(
    root: Path, name: str, device: str = "cpu", approximate_from: int = APPROXIMATE_FROM
) -> LiveStore:
    """Return the live store of a name.

    Raises: ConfigError: no store has that name. ArtifactError: its files can't be read, or its
        encoder is not the one that it was made with.
    """
    folder = store_folder(root, name)
    database = open_database(root, name)
    try:
        with database.transaction():
            about = database.about()
        settings, made = settings_of(about), about["encoder"]
        here = content_of(folder / ENCODER)
        if here != made["content"]:
            raise ArtifactError(
                f"{folder / ENCODER} (=files of digest {here}) must be the encoder that store "
                f"{name} was made with ({settings.encoder}, {made['content']}); put its files back."
            )
        encoder = load_encoder(made["kind"], folder / ENCODER, device)
        return LiveStore(folder, database, settings, encoder, approximate_from)
    except BaseException:
        database.close()
        raise


def require_new(folder: Path) -> None:
    """Raise ArtifactError where a store is made already."""
    if is_there(folder):
        raise ArtifactError(f"store (={folder.name}) must be new; {folder} holds one already.")


def is_there(folder: Path) -> bool:
    """Return whether a folder holds a store that was made to its end."""
    if not (folder / DATABASE).is_file():
        return False
    try:
        Database(folder / DATABASE).close()
    except ArtifactError as error:
        if "was cut off" in str(error):
            return False
        raise
    return True


def plain_hashing(dimensions: int) -> HashingEncoder:
    """Return the hashing encoder without document frequencies: every bucket weighs 1.

    Frequencies of a store that changes would change the vectors of what was indexed before.
    """
    ones = np.ones(BUCKETS, dtype=np.int32)
    return HashingEncoder(dict.fromkeys(HALVES, ones), 1, dimensions)
