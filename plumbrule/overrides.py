"""Overrides as words: how a setting and its value are written so that they can be pasted.

A word passes two readers. The shell takes off one pair of quotes; Hydra then reads `key=value` by a
grammar of its own, in which spaces at the ends, `=`, brackets, `~`, `#`, `<` and letters beyond
ASCII need a pair of quotes too.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

PLAIN = re.compile(r"[A-Za-z_./:+@?*|-][A-Za-z0-9_./:+@?*|-]*|[0-9][A-Za-z0-9_./:+@?*|-]*")
"""Values that Hydra reads as the text that they are."""


def as_override(key: str, value: str) -> str:
    """Return `key=value` as it is typed: quoted for Hydra, and for the shell, where that is needed.

    The value is read as text, never as a number, a list or null.
    """
    plain = PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false")
    if plain and not re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", value, re.IGNORECASE):
        return shlex.quote(f"{key}={value}")
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return shlex.quote(f'{key}="{escaped}"')


def unreadable(word: str) -> str:
    """Return what to do about a word that Hydra's grammar can't read."""
    key, equals, value = word.partition("=")
    if not equals:
        return f"{word!r} must be setting=value (or +setting=value, ~setting); add the value."
    given = value
    for quote in "'\"":
        if len(value) > 1 and value[0] == value[-1] == quote:
            given = value[1:-1]
    if given.startswith("~"):
        given = str(Path(given).expanduser())
    if given[:1] in "[{":
        return (
            f"{key} (={value}) must be a list or mapping as Hydra reads it, with texts in quotes "
            f"where they hold spaces, =, brackets, ~ or #; as in '{key}=[a, \"b c\"]'."
        )
    return (
        f"{key} (={value}) must be quoted twice, for the shell and for Hydra, since it holds one "
        "of space = [ ] { } ( ) ~ # < > , or a letter beyond ASCII; write "
        f"{as_override(key, given)}"
    )
