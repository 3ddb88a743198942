"""Composing many runs that differ from a first one by values of stages' settings alone.

A value reaches its own section of the config, what interpolates it (the seed of each stage), and
the nodes of these sections. All else is what the first run has, so only that is made again: the
dataclasses on the way to a changed setting, with their checks, and the nodes whose config they are.
Which data there are, ensembles, order and the checks of the whole graph are run for every one.
What goes beyond that is left to whoever composes whole.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plumbrule.config import refusing_together, require_sound
from plumbrule.machine.precision import resolved
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import NodeConfig
from plumbrule.pipeline.stages import SECTIONS, section_of

REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
UNNAMED_REFERENCE = re.compile(r"\$\{(\.|oc\.(select|dict)\b)")
"""An interpolation of other settings that does not say their whole names."""
ANY_SETTING = ""
"""In the place of a name: what holds such an interpolation is reached by every change."""


OF_ALL_STAGES = ("seed", "fold")
"""Settings of no stage's section that are followed."""


class NotAlone(Exception):
    """A value that reaches further than this module follows; compose the run whole."""


class Reuse:
    """What the first run leaves for the others.

    `typed` and `node` are called while a run is composed: of the first one they keep what was made.
    """

    def __init__(self, cfg: DictConfig):
        self._references = dict(references_in(cfg))
        self._config: RunConfig | None = None
        self.settled: list[str] = []
        self._nodes: dict[str, tuple[NodeConfig, Any]] = {}
        self._data: dict[tuple[str, int, int | None], Any] = {}
        """Data node, identity of the section eval, which names benchmarks' folders, and fold ->
        config."""
        self._sections: dict[tuple[str, str], Any] = {}
        self._resolved: dict[tuple[int, str], tuple[Any, Any]] = {}
        self._changed: dict[str, tuple[str, ...]] = {}
        """Setting -> which words of the command reach it, as they are written."""
        self._touched: set[str] = set()
        self._reached: dict[str, frozenset[str]] = {}
        self._values: dict[tuple[str, tuple[str, ...]], Any] = {}

    @property
    def is_first(self) -> bool:
        """Return whether nothing is kept yet."""
        return self._config is None

    def keep(self, config: RunConfig, settled: Sequence[str]) -> None:
        """Keep the first run's typed config as it is before anything is filled in.

        Args: settled: branches of the hub that became commits, as sentences.
        """
        self.settled = list(settled)
        self._config = copy.copy(config)
        self._config.run = copy.deepcopy(config.run)

    def change(self, words: Mapping[str, str]) -> None:
        """Say which settings differ from the first run's.

        Args: words: key -> value, as it is written.
        Raises: NotAlone: one is of no stage, or reaches what is not followed here.
        """
        if self._config is None or self._config.run.seeds:
            raise NotAlone("run.seeds")
        changed: dict[str, tuple[str, ...]] = {}
        for word, text in sorted(words.items()):
            for key in self._reach(word):
                changed[key] = (*changed.get(key, ()), f"{word}={text}")
        self._changed, self._touched = changed, {key.split(".")[0] for key in changed}

    def _reach(self, word: str) -> frozenset[str]:
        """Return a setting and those that interpolate it, directly or not."""
        if word in self._reached:
            return self._reached[word]
        reached = settings_reached(self._references, {word})
        for key in reached:
            if (key not in OF_ALL_STAGES and key.split(".")[0] not in SECTIONS) or "[" in key:
                raise NotAlone(key)
        self._reached[word] = frozenset(reached)
        return self._reached[word]

    def typed(self, cfg: DictConfig) -> RunConfig:
        """Return the config with the changed values, checked where they stand."""
        assert self._config is not None
        config = copy.copy(self._config)
        config.run = copy.deepcopy(self._config.run)
        tree: dict[str, Any] = {}
        for key, words in sorted(self._changed.items()):
            *above, last = key.split(".")
            place = tree
            for part in above:
                place = place.setdefault(part, {})
                if not isinstance(place, dict):
                    raise NotAlone(key)
            if (key, words) not in self._values:
                self._values[key, words] = _plain(OmegaConf.select(cfg, key))
            place[last] = _Leaf(self._values[key, words])
        for name, changes in tree.items():
            setattr(config, name, self._section(config, name, changes))
        with refusing_together():
            config.__post_init__()
        return config

    def _section(self, config: RunConfig, name: str, changes: Any) -> Any:
        """Return a section with changed values; one object for all runs that have these."""
        key = (name, repr(changes))
        if key not in self._sections:
            with refusing_together():
                made = _replaced(getattr(config, name), changes)
            require_sound(made, name)
            self._sections[key] = made
        return self._sections[key]

    def node(self, config: RunConfig, name: str, about: NodeConfig, own: Any) -> Any:
        """Return a node's config where that is known without merging; else None."""
        kept = self._nodes.get(name)
        if kept is None or kept[0] != about or own:
            return None
        if about.kind == "data":
            return self._data.get((name, id(config.eval), config.fold))
        section = section_of(about.kind)
        if section not in self._touched:
            return kept[1]
        return None if about.set or about.given is not None else getattr(config, section)

    def resolved(self, config: Any, device: str) -> Any:
        """Return a node's config with its precision; one object for all nodes that have it."""
        key = (id(config), device)
        if key not in self._resolved:
            self._resolved[key] = (config, resolved(config, device))
        return self._resolved[key][1]

    def keep_node(
        self, config: RunConfig, name: str, about: NodeConfig, own: Any, made: Any
    ) -> Any:
        """Return a node's config, as the one object that equal ones share; keep the first run's.

        Args: config: of the run. made: the node's.
        """
        if own:
            return made
        if not self._touched:
            self._nodes[name] = (about, made)
        kept = self._nodes.get(name)
        if kept is not None and kept[1] == made:
            made = kept[1]
        if about.kind == "data" and kept is not None and kept[0] == about:
            self._data[name, id(config.eval), config.fold] = made
        return made


def settings_reached(references: Mapping[str, Sequence[str]], keys: set[str]) -> set[str]:
    """Return the settings that change with `keys`, these among them.

    Args: references: each setting that interpolates others, and their names (`references_in`).
    """
    reached, todo = set(keys), list(keys)
    while todo:
        key = todo.pop()
        for user, named in references.items():
            if user not in reached and any(_overlap(key, name) for name in named):
                reached.add(user)
                todo.append(user)
    return reached


class _Leaf:
    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        return f"={self.value!r}"


def _replaced(before: Any, changes: Any) -> Any:
    if isinstance(changes, _Leaf):
        return changes.value
    if not dataclasses.is_dataclass(before) or isinstance(before, type):
        raise NotAlone(str(list(changes)))
    parts = {name: _replaced(getattr(before, name), inner) for name, inner in changes.items()}
    return dataclasses.replace(before, **parts)


def _plain(value: Any) -> Any:
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def _overlap(key: str, name: str) -> bool:
    named = key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.")
    return named or name == ANY_SETTING


def references_in(cfg: Any, above: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield each setting that interpolates others, dotted, and their names."""
    raw = OmegaConf.to_container(cfg, resolve=False)
    yield from _in(raw, above)


def _in(raw: Any, name: str) -> Iterator[tuple[str, list[str]]]:
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield from _in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(raw, list):
        for place, value in enumerate(raw):
            yield from _in(value, f"{name}[{place}]")
    elif isinstance(raw, str) and "${" in raw:
        unnamed = [ANY_SETTING] if UNNAMED_REFERENCE.search(raw) else []
        yield name, [*REFERENCE.findall(raw), *unnamed]
