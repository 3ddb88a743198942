"""A choice of a file that another file undoes: cells that differ on the command line alone.

Hydra lets a file of `experiment`, `debug` or `recipe` set any key, after the groups that a command
chooses. A sweep over such a group may then come to the same config in each cell, and its table
would compare a thing with itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from plumbrule.errors import ConfigError
from plumbrule.pipeline.experiment import RunConfig


class Undone(NamedTuple):
    """A key that a chosen file sets and another file sets again."""

    word: str
    key: str
    by: str

    def __str__(self) -> str:
        return f"{self.word} sets {self.key}, which {self.by} sets again"


def undone(cfg: DictConfig, overrides: Sequence[str]) -> list[Undone]:
    """Return the keys of files that a cell's overrides choose which a later file has set otherwise.

    Args: cfg: the cell's config with Hydra's own part.
    """
    choices = {g: c for g, c in cfg.hydra.runtime.choices.items() if c and "/" not in g}
    chosen = [word for word in overrides if word.partition("=")[0] in choices]
    if not chosen:
        return []
    sources = cfg.hydra.runtime.config_sources
    folders = tuple(Path(source.path) for source in sources if source.schema == "file")
    later = {f"{g}={c}": _keys(folders, g, c) for g, c in choices.items()}
    found = []
    for word in chosen:
        group, _, choice = word.partition("=")
        own = _keys(folders, group, choice)
        if own is None or own.is_global:
            continue
        for other, setting in later.items():
            if other == word or setting is None or not setting.is_global:
                continue
            for key, value in own.values.items():
                name = f"{group}.{key}"
                if name in setting.values and setting.values[name] != value:
                    found.append(Undone(word, name, f"{other} ({setting.path})"))
    return found


def refuse_same(cells: Sequence[tuple[RunConfig, str, Sequence[Undone]]]) -> None:
    """Raise ConfigError if cells that differ on the command line have one config.

    Args: cells: of each its config, what its overrides have that others do not, what was undone.
    """
    seen: dict[tuple[str, ...], tuple[str, Sequence[Undone]]] = {}
    texts = Texts()
    for config, words, again in cells:
        same = texts.of(config)
        first, first_again = seen.setdefault(same, (words, again))
        if first != words:
            why = dict.fromkeys(str(one) for one in (*first_again, *again))
            told = f": {'; '.join(why)}" if why else ""
            raise ConfigError(
                f"cells ({first}) and ({words}) must differ, but come to one config{told}; take "
                "one out, or set the keys themselves."
            )


class Texts:
    """Configs as texts that tell them apart; what cells have in common is written once."""

    def __init__(self) -> None:
        self._sections: dict[int, tuple[Any, str]] = {}
        self._nodes: tuple[Any, str] = ({}, "{}")

    def of(self, config: RunConfig) -> tuple[str, ...]:
        """Return a text for each section; equal configs have equal texts, and others have not."""
        found = []
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name == "nodes":
                if value != self._nodes[0]:
                    self._nodes = (value, _text({n: _plain(node) for n, node in value.items()}))
                found.append(self._nodes[1])
            elif dataclasses.is_dataclass(value):
                if id(value) not in self._sections:  # kept, so that no other gets its id
                    self._sections[id(value)] = (value, _text(_plain(value)))
                found.append(self._sections[id(value)][1])
            else:
                parts = value.items() if isinstance(value, dict) else [("", value)]
                found.append(_text({name: _plain(part) for name, part in parts}))
        return tuple(found)


def _plain(value: Any) -> Any:
    is_one = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclasses.asdict(value) if is_one else value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


class _File(NamedTuple):
    path: str
    values: Mapping[str, Any]
    is_global: bool


@lru_cache(maxsize=1024)
def _keys(folders: tuple[Path, ...], group: str, choice: str) -> _File | None:
    """Return what a file of a group sets; None: there is no such file."""
    for folder in folders:
        path = folder / group / f"{choice}.yaml"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            loaded = OmegaConf.to_container(OmegaConf.create(text))
            return _File(f"{group}/{path.name}", dict(_leaves(loaded)), "@package _global_" in text)
    return None


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of each leaf of nested mappings."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for name, inner in value.items():
        if prefix or name != "defaults":
            yield from _leaves(inner, f"{prefix}.{name}" if prefix else str(name))
