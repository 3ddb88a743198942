"""Words that people give runs: `tags.json` in a run's folder, beside its record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plumbrule.errors import ConfigError
from plumbrule.store.json_files import read_json, write_json

TAGS = "tags.json"
LONGEST = 64


def read_tags(run: Path) -> list[str]:
    """Return the tags of a run's folder, none where its file is missing or damaged."""
    try:
        found = read_json(run / TAGS)
    except (OSError, ValueError, RecursionError):
        return []
    return [tag for tag in found if isinstance(tag, str)] if isinstance(found, list) else []


def change_tags(run: Path, add: Sequence[str] = (), remove: Sequence[str] = ()) -> list[str]:
    """Give and take tags, and return those that the run has then, in the order they were given.

    Raises: ConfigError: a tag that is empty, too long, or holds a space or a comma; one to be
        removed that is not there.
    """
    for tag in add:
        if not tag.isprintable() or set(tag) & set(" ,") or not 0 < len(tag) <= LONGEST:
            raise ConfigError(
                f"tag (={tag!r:.80}) must be 1 to {LONGEST} characters without space and comma; "
                "choose another."
            )
    tags = read_tags(run)
    for tag in remove:
        if tag not in tags:
            known = ", ".join(tags) or "none"
            raise ConfigError(f"--remove (={tag}) must be a tag of {run.name}; it has {known}.")
    tags = [tag for tag in dict.fromkeys([*tags, *add]) if tag not in remove]
    write_json(run / TAGS, tags)
    return tags
