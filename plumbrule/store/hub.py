"""Models and data sets on the Hugging Face hub: which commit a name means, where its files lie.

A commit never changes, so a data set of the hub is hashed by its name and commit, as a model is,
and downloaded when it is read. A branch or tag moves: planning asks the hub which commit it is now
(offline: the cache, what it was then), and that commit is what is hashed, recorded and shown.

Nothing here is a token: `hf auth login` leaves one where huggingface_hub finds it.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from plumbrule.errors import ConfigError, DataError
from plumbrule.store.source_files import HUB, is_hub_data

PREFIX = f"{HUB}//datasets/"
FORM = "hf://datasets/<owner>/<name>@<commit>[/<folder>]"
COMMIT = re.compile(r"[0-9a-f]{40}")
_DATA = re.compile(
    re.escape(PREFIX) + r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)(?:/(?P<folder>[\w./-]+))?"
)
COMPLETE = ".plumbrule-complete"
"""Left in a downloaded folder once all of it is there: a cache may hold half of a data set."""
ANSWER_SECONDS = 10.0
"""A hub that is silent for so long is out of reach."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
YES = ("1", "on", "yes", "true")


class HubData(NamedTuple):
    """A data set on the hub. folder: inside it; "" for the whole."""

    name: str
    revision: str
    folder: str

    def __str__(self) -> str:
        """Return it as a path."""
        inside = f"/{self.folder}" if self.folder else ""
        return f"{PREFIX}{self.name}@{self.revision}{inside}"


def hub_data(path: str) -> HubData:
    """Return what a path names on the hub. Raises: ConfigError: it is not of that form."""
    match = _DATA.fullmatch(path)
    if match is None or ".." in path:
        raise ConfigError(f"dataset.path (={path}) must be {FORM}; correct it.")
    return HubData(match["name"], match["revision"], (match["folder"] or "").strip("/"))


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a commit, and no branch or tag."""
    return COMMIT.fullmatch(revision or "") is not None


def offline() -> str:
    """Return the environment variable that forbids the network; "" where none does."""
    return next((name for name in OFFLINE if os.environ.get(name, "").lower() in YES), "")


@lru_cache(maxsize=64)
def commit_of(name: str, revision: str, kind: str = "model") -> str:
    """Return the commit that a branch or tag of a hub repository is at.

    Args: kind: model or dataset.
    Raises: ConfigError: it can't be known: no network and not in the cache, or no such name.
    """
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}/commits/main"
    reason = f"{offline()} is set"
    if not offline():
        from huggingface_hub import HfApi

        try:
            found = HfApi().repo_info(
                name, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS
            )
            if is_commit(found.sha):
                return str(found.sha)
            reason = "the hub names none"
        except Exception as error:  # httpx, OSError and the hub's own, of no common class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    cached = _cached_commit(name, revision, kind)
    if cached is not None:
        return cached
    raise ConfigError(
        f"revision (={revision}) of {name} must be resolved to a commit ({reason}); give the 40 "
        f"digits of one from {page}, or run once with the hub within reach."
    )


def _cached_commit(name: str, revision: str, kind: str) -> str | None:
    """Return the commit that a branch had when it was downloaded; None where it was not."""
    from huggingface_hub import constants

    folder = f"{kind}s--{name.replace('/', '--')}"
    ref = Path(constants.HF_HUB_CACHE) / folder / "refs" / revision
    try:
        found = ref.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return found if is_commit(found) else None


def folder_here(data: HubData) -> Path | None:
    """Return where a data set lies, if all of it is here; None: it is yet to be downloaded."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"datasets--{data.name.replace('/', '--')}"
    folder = root / "snapshots" / data.revision / data.folder
    return folder if (folder / COMPLETE).is_file() else None


def download(data: HubData) -> Path:
    """Return the folder of a data set, fetched if it is not here.

    Raises: DataError: it can't be fetched.
    """
    here = folder_here(data)
    if here is not None:
        return here
    from huggingface_hub import snapshot_download

    pattern = f"{data.folder}/*" if data.folder else "*"
    try:
        if offline():
            raise OSError(f"{offline()} is set")
        root = snapshot_download(
            data.name, repo_type="dataset", revision=data.revision, allow_patterns=pattern
        )
        folder = Path(root) / data.folder
        (folder / COMPLETE).touch()
    except Exception as error:  # httpx, OSError and the hub's own, of no common class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"can't be downloaded ({first[:160]}); go online, or give a folder that holds it.",
            str(data),
        ) from None
    return folder


@lru_cache(maxsize=64)
def size_on_hub(name: str, revision: str, folder: str = "", kind: str = "model") -> int | None:
    """Return the bytes to be downloaded; None where the hub can't be asked.

    Of a model its safetensors, of a data set the files below `folder`.
    """
    if offline():
        return None
    from huggingface_hub import HfApi

    try:
        found = HfApi().repo_info(
            name, revision=revision, repo_type=kind, timeout=ANSWER_SECONDS, files_metadata=True
        )
    except Exception:  # as above; the plan does without
        return None
    sizes = [
        file.size or 0
        for file in getattr(found, "siblings", None) or []
        if file.rfilename.startswith(f"{folder}/" if folder else "")
        and (kind == "dataset" or file.rfilename.endswith(".safetensors"))
    ]
    return sum(sizes) or None


@lru_cache(maxsize=64)
def parameters_on_hub(name: str, revision: str) -> int | None:
    """Return how many weights a model on the hub has; None where the hub can't be asked."""
    if offline():
        return None
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(name, revision=revision, timeout=ANSWER_SECONDS)
    except Exception:  # as above; the plan does without
        return None
    return getattr(getattr(found, "safetensors", None), "total", None)


def local_path(path: str | Path) -> Path:
    """Return where the files of a path of data lie, downloaded where it names the hub.

    Raises: DataError: they can't be fetched.
    """
    return download(hub_data(str(path))) if is_hub_data(path) else Path(path)
