"""Live stores that are made, and opened by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import numpy as np

from plumbrule.errors import ArtifactError
from rag.index.encoders import Encoder, content_of, load_encoder, make_encoder
from rag.index.hash_encoder import BUCKETS, HALVES, HashingEncoder
from rag.store.database import DATABASE, Database
from rag.store.live import ENCODER, LiveStore
from rag.store.naming import open_database, require_name, store_folder
from rag.store.segments import APPROXIMATE_FROM
from rag.store.settings import HASHING, StoreSettings, settings_of


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
    if (folder / DATABASE).is_file() and is_made(folder):
        raise ArtifactError(f"store (={name}) must be new; {folder} holds one already.")
    kind, encoder = HASHING, cast(Encoder, plain_hashing(settings.dimensions))
    if settings.encoder != HASHING:
        kind, encoder = make_encoder(
            settings.encoder, settings.encoder_revision, settings.dimensions, [], device
        )
    shutil.rmtree(folder / ENCODER, ignore_errors=True)  # of a store whose making was cut off
    encoder.save(folder / ENCODER)
    made = {"kind": kind, "content": content_of(folder / ENCODER)}
    about = {"settings": settings.as_json(), "encoder": made}
    database = Database.create(folder / DATABASE, about)
    return LiveStore(folder, database, settings, encoder, approximate_from)


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


def is_made(folder: Path) -> bool:
    """Return whether the database of a store was made to its end."""
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
