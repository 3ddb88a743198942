"""`plumbrule convert`: a GGUF, or a model in another dtype, written as a plain model."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from plumbrule.cli.messages import say
from plumbrule.errors import ConfigError
from plumbrule.store.packaged_models import (
    PACKAGED,
    by_word,
    converted_folder,
    packaged_file,
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    packaged = " or ".join(model.word for model in PACKAGED.values())
    parser.add_argument("source", help=f"a GGUF, a model's folder, or {packaged}")
    parser.add_argument("out", nargs="?", help="a folder that is new or empty")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")


def run(options: argparse.Namespace) -> None:
    """Write the model and print its folder. Raises: as `convert`."""
    print(convert(options.source, options.out, options.dtype))


def convert(word: str, folder: str | None, dtype: str) -> Path:
    """Write a plain model and return its folder; a packaged one goes where configs find it.

    Raises: ConfigError: a source that can't be converted, or no folder to write it to.
    """
    name = by_word(word)
    given = Path(word)
    source = packaged_file(PACKAGED[name]) if name and not given.exists() else given
    if folder is None and name is None:
        raise ConfigError("out (=None) must name a new folder; add it behind the source.")
    out = Path(folder) if folder else converted_folder(str(name))
    importlib.import_module("plumbrule.lm.conversion.convert").convert(source, out, dtype, say)
    return out
