"""Add settings that are new to `plumbrule/first_defaults.json`; what is there stays as it is.

    python scripts/note_first_defaults.py            # add them
    python scripts/note_first_defaults.py --check    # exit with 1 where one is missing

A setting at its first default is not part of a fingerprint (`plumbrule/store/fingerprint.py`), so a
new one that is left off rebuilds nothing. Groups of settings and what is never hashed have no
entry.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any, get_type_hints

from plumbrule.pipeline.experiment import GROUPS
from plumbrule.pipeline.stages import STAGES
from plumbrule.store.fingerprint import FIRST_DEFAULTS, first_defaults


def settings_classes() -> list[type]:
    """Return every class of settings that a stage's config is made of."""
    found: dict[str, type] = {}
    todo = [*GROUPS.values(), *(stage.config for stage in STAGES.values())]
    while todo:
        schema = todo.pop()
        if found.setdefault(schema.__name__, schema) is not schema:
            raise ValueError(f"two classes of settings are named {schema.__name__}; rename one.")
        for hint in get_type_hints(schema).values():
            parts = [hint, *getattr(hint, "__args__", ())]
            todo += [p for p in parts if dataclasses.is_dataclass(p) and p.__name__ not in found]
    return [found[name] for name in sorted(found)]


def defaults_of(schema: type) -> Iterator[tuple[str, Any]]:
    """Yield (setting, default) of the settings that are hashed one by one."""
    for field in dataclasses.fields(schema):
        if field.metadata.get("hashed") == "no":
            continue
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        whole = [value, *value] if isinstance(value, list) else [value]
        if not any(dataclasses.is_dataclass(part) for part in whole):
            yield field.name, value


def main() -> int:
    """Add what is missing, or say it; return the exit code."""
    noted = {name: dict(settings) for name, settings in first_defaults().items()}
    missing = []
    for schema in settings_classes():
        for name, value in defaults_of(schema):
            if name not in noted.get(schema.__name__, {}):
                missing.append(f"{schema.__name__}.{name}")
                noted.setdefault(schema.__name__, {})[name] = value
    if "--check" in sys.argv:
        print("\n".join(missing) or "every setting is there")
        return int(bool(missing))
    text = json.dumps(dict(sorted(noted.items())), indent=1, ensure_ascii=False)
    FIRST_DEFAULTS.write_text(text + "\n", encoding="utf-8")
    print(f"{len(missing)} added")
    return 0


if __name__ == "__main__":
    sys.exit(main())
