"""How a setting is checked, and how it is marked for the fingerprint.

A default lives in a dataclass and nowhere else; the string under a field gives its unit, and the
meaning of None. Ranges are checked in `__post_init__` with `require`, before any model loads. This
module and every `config.py` import no torch, so help and planning stay fast. A `config.py` imports
only others that its own stage reads: what it imports is part of the stage's fingerprint.

A stage's config is hashed whole into its artifact's fingerprint (`plumbrule/store/fingerprint.py`),
but for fields that are marked in their metadata: a `CONTENT` path stands for the bytes of the files
it names, and a `NOT_HASHED` field changes no number of its stage beyond rounding.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError
from plumbrule.store.adapter_files import base_of, is_adapter_folder, read_adapter
from plumbrule.store.packaged_files import located

CONTENT = {"hashed": "content"}
CONTENT_IF_LOCAL = {"hashed": "content if local"}
"""For a name that may be a folder: its content where it is one, else the name itself."""
NOT_HASHED = {"hashed": "no"}
PRECISIONS = ("auto", "float32", "bfloat16")
"""Of a stage's forward and backward passes. auto: bfloat16 where the device multiplies it natively,
else float32 (`plumbrule/machine/precision.py`); a stage's `run` is given one of the two."""


def require(holds: bool, name: str, value: Any, rule: str, fix: str) -> None:
    """Raise ConfigError `<name> (=<value>) must <rule>; <fix>.` unless `holds`.

    Within `refusing_together` the error is raised at its end, with all others.
    """
    if not holds:
        error, refused = f"{name} (={value}) must {rule}; {fix}.", _REFUSED.get()
        if refused is None:
            raise ConfigError(error)
        refused.append(error)


_REFUSED: ContextVar[list[str] | None] = ContextVar("_REFUSED", default=None)


@contextmanager
def refusing_together() -> Iterator[None]:
    """Let `require` go on behind what it refuses; at the end raise one ConfigError that has all.

    A check that fails in another way behind a refused value says nothing of its own.
    """
    refused: list[str] = []
    before = _REFUSED.set(refused)
    try:
        yield
    except (ConfigError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        if not refused:
            raise
        if isinstance(error, ConfigError):
            refused.append(str(error))
    finally:
        _REFUSED.reset(before)
    every = list(dict.fromkeys(refused))  # a part that several stages have is checked in each
    if len(every) > 1:
        listed = " ".join(f"({i}) {error}" for i, error in enumerate(every, 1))
        raise ConfigError(f"{len(every)} settings must change: {listed}")
    if every:
        raise ConfigError(every[0])


def require_choice(
    name: str, value: str, choices: Collection[str], otherwise: str = "choose one"
) -> None:
    """Raise ConfigError, with the nearest name, unless `value` is one of `choices`.

    Args: otherwise: the fix where no choice is near.
    """
    if value in choices:  # as nearly always: the nearest name takes a hundred times as long
        return
    close = difflib.get_close_matches(str(value), choices, n=1)
    fix = f"the nearest is {close[0]}" if close else otherwise
    require(False, name, value, f"be one of {', '.join(sorted(choices))}", fix)


def require_range(
    name: str, value: float, low: float = -math.inf, high: float = math.inf, unit: str = ""
) -> None:
    """Raise ConfigError unless low <= value <= high; NaN and the infinities never pass."""
    shown = f"{value} {unit}".strip()
    span = f"be at least {low:g}" if high == math.inf else f"lie in [{low:g}, {high:g}]"
    holds = low <= value <= high and abs(value) != math.inf
    require(holds, name, shown, f"{span} and be finite" if math.isinf(value) else span, "change it")


MOST = 2**63
"""Whole numbers from here on fit into no generator's seed and no tensor."""


def require_sound(config: Any, name: str = "") -> None:
    """Raise ConfigError for a value that no setting can have, anywhere in a config.

    An infinite number or NaN, a whole number of more than 64 bits, and a text with a NUL or with
    what is no Unicode.
    """
    if dataclasses.is_dataclass(config):
        for field_ in dataclasses.fields(config):
            require_sound(getattr(config, field_.name), f"{name}.{field_.name}".strip("."))
    elif isinstance(config, Mapping):
        for key, value in config.items():
            require_sound(value, f"{name}.{key}".strip("."))
    elif isinstance(config, list | tuple):
        for place, value in enumerate(config):
            require_sound(value, f"{name}[{place}]")
    elif isinstance(config, float):
        require(math.isfinite(config), name, config, "be finite", "give a number")
    elif isinstance(config, int):
        require(-MOST <= config < MOST, name, f"{config:.3e}", "fit 64 bits", "give a smaller one")
    elif isinstance(config, str):
        sound = "\0" not in config and not any("\ud800" <= c <= "\udfff" for c in config)
        require(sound, name, f"{config!r:.80}", "be Unicode text without NUL", "rename it")


def require_source(name: str, value: str, revision_name: str, revision: str | None) -> None:
    """Raise ConfigError unless `value` is a folder that exists, a shipped model, or a hub name with
    its commit.
    """
    if Path(located(value)).is_dir():
        require(
            revision is None,
            revision_name,
            revision,
            f"be null for the folder {name} (={value})",
            "only a hub name has revisions",
        )
        if is_adapter_folder(located(value)):
            folder = Path(located(value))
            try:
                read_adapter(folder)
                base_of(folder)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
        return
    parts = value.split("/")
    plain = len(parts) <= 2 and all(part and part[0] not in ".~-" for part in parts)
    require(plain, name, value, "be a folder that exists or a hub name", "check the path")
    digits = revision or ""
    resolved = (
        f"add {revision_name}=main, which the plan resolves to its commit and records, or "
        if revision_name == "model.revision"
        else ""
    )
    require(
        len(digits) == 40 and set(digits) <= set("0123456789abcdef"),
        revision_name,
        revision,
        f"be a 40-digit hex commit of the hub name {value}, which is no folder here",
        f"give one (branches move): copy it from https://huggingface.co/{value}/commits/main, or "
        f"{resolved}correct {name}",
    )


def require_named(
    section: str, name_or_path: str | None, revision: str | None, pad_token: str | None = None
) -> None:
    """Raise ConfigError unless a section's model can be named so; None: it names none.

    Args: section: of the config, which holds `name_or_path`, `revision` and `pad_token`.
    """
    if name_or_path is not None:
        require_source(f"{section}.name_or_path", name_or_path, f"{section}.revision", revision)
        return
    for setting, value in (("revision", revision), ("pad_token", pad_token)):
        require(
            value is None,
            f"{section}.{setting}",
            value,
            f"be null without {section}.name_or_path",
            "name a model too, or take it out",
        )
