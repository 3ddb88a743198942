"""The configs of a sweep's cells, composed and checked together.

Where cells differ by values alone, not by files of conf/, Hydra composes the first of them and the
others are that one with their values set: what Hydra does itself with a value, without reading
every file again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.composition import CONF, require_recipes
from plumbrule.cli.explain import explain
from plumbrule.cli.sweeps.undone import Undone, undone
from plumbrule.errors import ConfigError
from plumbrule.pipeline.compose import Composed, compose_run

MOST_SHOWN = 6
"""Cells that an error lists."""


class CellConfig(NamedTuple):
    """A cell before it is planned. folder: where it leaves `cell.json`."""

    composed: Composed
    overrides: Sequence[str]
    number: int
    folder: Path
    undone: Sequence[Undone] = ()
    """Keys of files it chooses that another file sets again."""


def compose_cells(
    loader: Any, master: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[CellConfig]:
    """Return the cells. Raises: ConfigError: some can't run, all of them in one message."""
    found: list[CellConfig] = []
    wrong: list[tuple[int, str]] = []
    begun: DictConfig | None = None
    words = [as_words(overrides) for overrides in job_overrides]
    before = HydraConfig.instance().cfg
    try:
        for place, overrides in enumerate(job_overrides):
            try:
                changed = changed_words(words[place], words[0])
                set_alone = all(k in words[place] and is_plain(k, loader) for k in changed)
                if begun is None or not set_alone:
                    require_recipes(overrides)
                    cfg = loader.load_sweep_config(master, list(overrides))
                    begun = cfg if place == 0 else begun
                else:
                    cfg = with_values(begun, overrides, changed)
                with flag_override(cfg.hydra, ["readonly", "struct"], [False, False]):
                    cfg.hydra.job.id = cfg.hydra.job.num = first + place
                HydraConfig.instance().set_config(cfg)
                folder = Path(cfg.hydra.sweep.dir) / str(cfg.hydra.sweep.subdir)
                task = copy.copy(cfg)
                with open_dict(task):
                    del task["hydra"]
                said = list(cfg.hydra.overrides.task)
                again = undone(cfg, overrides)
                composed = compose_run(task)
                found.append(CellConfig(composed, said, first + place, folder.resolve(), again))
            except (HydraException, OmegaConfBaseException) as error:
                wrong.append((place, explain(error, overrides)))
            except ConfigError as error:
                wrong.append((place, str(error)))
    finally:
        HydraConfig.instance().cfg = before
    refuse(wrong, own_words(job_overrides))
    return found


def refuse(wrong: Sequence[tuple[int, str]], words: Sequence[str]) -> None:
    """Raise ConfigError if any cell is wrong.

    Args: wrong: place and message. words: that tell each cell from the others.
    """
    messages = {message for _, message in wrong}
    if len(messages) == 1 and len(wrong) == len(words):
        raise ConfigError(messages.pop())
    if wrong:
        told = [f"({words[place]}) {said}" for place, said in wrong[:MOST_SHOWN]]
        more = f" and {len(wrong) - MOST_SHOWN} more" if len(wrong) > MOST_SHOWN else ""
        raise ConfigError(
            f"{len(wrong)} of {len(words)} cells can't run, so none was started: "
            f"{' '.join(told)}{more}"
        )


def with_values(
    begun: DictConfig, overrides: Sequence[str], changed: Mapping[str, str]
) -> DictConfig:
    """Return a copy of the first cell's config with the values in which another cell differs."""
    cfg = copy.deepcopy(begun)
    for key, override in changed.items():
        OmegaConf.update(cfg, key, value_of(key, override))
    about = cfg.hydra.job.config.override_dirname
    task = filter_overrides(overrides)
    parsed = OverridesParser.create().parse_overrides(list(task))
    lines = [o.input_line or "" for o in parsed if o.key_or_group not in about.exclude_keys]
    with flag_override(cfg.hydra, ["readonly", "struct"], [False, False]):
        joined = about.item_sep.join(sorted(lines)).replace("=", about.kv_sep)
        cfg.hydra.job.override_dirname = joined
        cfg.hydra.overrides.task = list(task)
    return cfg


def as_words(overrides: Sequence[str]) -> dict[str, str]:
    """Return key -> value of a cell's overrides, as they are written."""
    return {key: value for key, _, value in (o.partition("=") for o in overrides)}


def own_words(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return of each cell the overrides that not all cells have."""
    shared = set.intersection(*map(set, cells)) if len(cells) > 1 else set()
    return [" ".join(o for o in cell if o not in shared) or "(all alike)" for cell in cells]


def changed_words(cell: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Return the overrides of a cell that another does not have, or has with another value."""
    keys = [*cell, *(key for key in other if key not in cell)]
    return {key: cell.get(key, "") for key in keys if other.get(key) != cell.get(key)}


def is_plain(key: str, loader: Any = None) -> bool:
    """Return whether an override sets a value, rather than adding one or choosing a file."""
    if not key[:1].isalpha() or set(key) & set("@/") or key.startswith("hydra."):
        return False
    if (CONF / key).is_dir():
        return False
    return loader is None or "." in key or not loader.get_group_options(key)


def value_of(key: str, value: str) -> object:
    """Return the value of an override as Hydra reads it."""
    return OverridesParser.create().parse_override(f"{key}={value}").value()
