"""What a judge is asked: a template of text with named fields, filled from a prompt. No torch here.

A line of a template that holds {passages} falls away where no passages were shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from plumbrule.config import require
from plumbrule.data.records import Message

PASSAGES = "passages"
_FIELD = re.compile(r"\{(\w+)\}")


def require_fields(
    name: str, template: str, needed: Sequence[str], optional: Collection[str] = ()
) -> None:
    """Raise ConfigError unless the template `name` holds all needed fields and no unknown one."""
    fields = set(_FIELD.findall(template))
    *first, last = [f"{{{field}}}" for field in needed]
    wanted = f"{', '.join(first)} and {last}" if first else last
    perhaps = " or ".join(f"{{{field}}}" for field in optional)
    require(
        set(needed) <= fields <= {*needed, *optional},
        name,
        sorted(fields),
        f"hold {wanted}, maybe {perhaps}, and no other field",
        "correct its fields",
    )


def conversation(messages: Sequence[Message]) -> str:
    """Return a prompt as text: a single turn as it is, several with their roles."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{m.role.capitalize()}: {m.content}" for m in messages)


def fill(template: str, passages: Sequence[str], fields: Mapping[str, str]) -> str:
    """Return the template with its fields filled; braces inside a filled text are text."""
    if not passages:
        field = f"{{{PASSAGES}}}"
        template = "\n".join(line for line in template.split("\n") if field not in line)
    filled = {**fields, PASSAGES: "\n".join(passages)}
    return _FIELD.sub(lambda hit: filled.get(hit[1], hit[0]), template)
