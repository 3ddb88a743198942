"""Plug-ins: modules of a user's own that enter names into our tables.

`plumbrule --plugin rewards.py ...`, or $PLUMBRULE_PLUGINS (several, separated as in $PATH), names
Python files or importable modules. They are imported before a config is read, in the processes of a
stage too, and call `register` of the table that they add to (`rlhf.rewards.functions`,
`plumbrule.data.readers`). A config can then choose the name; no config can name the code. What is
chosen carries a digest of the plug-in's file, so an edited plug-in makes another artifact; what
that file imports is not part of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from plumbrule.errors import ConfigError
from plumbrule.store.fingerprint import digest

VARIABLE = "PLUMBRULE_PLUGINS"
OPTION = "--plugin"


def take_options(arguments: list[str]) -> list[str]:
    """Return the arguments without `--plugin X` and `--plugin=X`, which join $PLUMBRULE_PLUGINS.

    The variable, not a global, since processes that a run starts must load them too.
    Raises: ConfigError: the last argument is a bare --plugin.
    """
    rest, named = [], []
    words = iter(arguments)
    for word in words:
        if word == OPTION:
            value = next(words, None)
            if value is None:
                raise ConfigError(f"{OPTION} must be followed by a Python file or module.")
            named.append(value)
        elif word.startswith(f"{OPTION}="):
            named.append(word.partition("=")[2])
        else:
            rest.append(word)
    given = [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    if named:
        files = [str(Path(n).resolve()) if n.endswith(".py") else n for n in named]
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*given, *files]))
    return rest


def load() -> None:
    """Import the plug-ins that $PLUMBRULE_PLUGINS names.

    Raises: ConfigError: one is not there, or raises.
    """
    for name in os.environ.get(VARIABLE, "").split(os.pathsep):
        if not name:
            continue
        try:
            _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        except ConfigError:
            raise
        except Exception as error:  # a user's code may raise anything
            raise ConfigError(
                f"plug-in (={name}) must import: {type(error).__name__}: {error}; mend it, or take "
                f"it out of ${VARIABLE}."
            ) from error


def _import_file(path: Path) -> None:
    """Import a file once, under a name of its own."""
    name = f"plumbrule_plugin_{path.stem}_{digest(str(path.resolve()))}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise ConfigError(f"plug-in (={path}) must be a file; check the path.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
