"""The configs of a sweep's cells, composed and checked together.

Where cells differ by values of stages' settings alone, Hydra composes the first of them and the
others are that one with their values set, as Hydra sets a value itself, without reading every file
again (`plumbrule/pipeline/planning/value_cells.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.composition import CONF, cell_name, require_recipes
from plumbrule.cli.explain import explain
from plumbrule.cli.sweeps.undone import Undone, undone
from plumbrule.errors import ConfigError
from plumbrule.pipeline.compose import Composed, compose_run
from plumbrule.pipeline.planning.value_cells import NotAlone, Reuse

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
    values: ValueCells | None = None
    plain = lru_cache(maxsize=None)(lambda key: is_plain(key, loader))
    words = [as_words(overrides) for overrides in job_overrides]
    before = HydraConfig.instance().cfg
    try:
        for place, overrides in enumerate(job_overrides):
            try:
                changed = changed_words(words[place], words[0])
                set_alone = all(k in words[place] and plain(k) for k in changed)
                cell = None
                if values is not None and set_alone:
                    cell = values.cell(overrides, words[place], first + place)
                if cell is None:
                    require_recipes(overrides)
                    cfg = loader.load_sweep_config(master, list(overrides))
                    reuse = ValueCells(cfg, words[0]) if place == 0 else None
                    cell = _composed(cfg, overrides, first + place, reuse)
                    values = reuse or values
                found.append(cell)
            except (HydraException, OmegaConfBaseException) as error:
                wrong.append((place, explain(error, overrides)))
            except ConfigError as error:
                wrong.append((place, str(error)))
    finally:
        HydraConfig.instance().cfg = before
    refuse(wrong, own_words(job_overrides))
    return found


def _composed(
    cfg: DictConfig, overrides: Sequence[str], number: int, values: ValueCells | None
) -> CellConfig:
    """Return the cell of a config that Hydra composed."""
    folder = folder_of(cfg, number)
    task = copy.copy(cfg)
    with open_dict(task):
        del task["hydra"]
    composed = compose_run(task, None if values is None else values.reuse)
    said = list(cfg.hydra.overrides.task)
    found = CellConfig(composed, said, number, folder, undone(cfg, overrides))
    if values is not None:
        values.first = found
    return found


def folder_of(cfg: DictConfig, number: int, set_config: bool = True) -> Path:
    """Return the folder of a cell, which then has that number."""
    with flag_override(cfg.hydra, ["readonly", "struct"], [False, False]):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    if set_config:  # for what interpolates ${hydra:...}; it copies all of Hydra's part
        HydraConfig.instance().set_config(cfg)
    return (Path(cfg.hydra.sweep.dir) / str(cfg.hydra.sweep.subdir)).resolve()


class ValueCells:
    """Cells that are the first one with other values: nothing is read or merged again for them.

    Args: cfg: of the first cell. words: key -> value of its overrides.
    """

    def __init__(self, cfg: DictConfig, words: Mapping[str, str]):
        self.cfg = copy.deepcopy(cfg)
        self.task = copy.deepcopy(cfg)
        with open_dict(self.task):
            del self.task["hydra"]
        self.words, self._now = words, dict(words)
        self.reuse = Reuse(self.task)
        sweep = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
        self._named_by_hydra = "${hydra:" in str(sweep)
        self._folder = Path(cfg.hydra.sweep.dir).resolve() if sweep == OWN_NAMES else None
        self._naming = Naming.of(cfg)
        self.first: CellConfig | None = None

    def cell(
        self, overrides: Sequence[str], words: Mapping[str, str], number: int
    ) -> CellConfig | None:
        """Return a cell; None: its values reach further, so it has to be composed whole, or are
        wrong, which composing says best.
        """
        if self.first is None or self._named_by_hydra:
            return None
        try:
            self.reuse.change(changed_words(words, self.words))
            for key, text in changed_words(words, self._now).items():
                if key in words:
                    OmegaConf.update(self.task, key, value_of(key, text))
                    self._now[key] = text
                else:  # an earlier cell set it, and this one has it as the first
                    OmegaConf.update(self.task, key, OmegaConf.select(self.cfg, key), merge=False)
                    del self._now[key]
            composed = compose_run(self.task, self.reuse)
        except (NotAlone, ConfigError, HydraException, OmegaConfBaseException):
            return None
        said = list(filter_overrides(overrides))
        if self._folder is None:
            name_cell(self.cfg, said, self._naming)
            folder = folder_of(self.cfg, number, set_config=False)
        else:
            folder = self._folder / cell_name(self._naming.dirname(said))
        return CellConfig(composed, said, number, folder, self.first.undone)


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


OWN_NAMES = {
    "dir": "${sweep_folder:${run.store},${run.name},${run.dry}}",
    "subdir": "${cell:${hydra.job.override_dirname}}",
}
"""How conf/config.yaml names the folders of a sweep and its cells: by no setting of a stage."""


class Naming(NamedTuple):
    """How Hydra joins the overrides of a cell to one text."""

    excluded: frozenset[str]
    item_sep: str
    kv_sep: str

    @classmethod
    def of(cls, cfg: DictConfig) -> Naming:
        """Return what a config says of it."""
        about = cfg.hydra.job.config.override_dirname
        return cls(frozenset(about.exclude_keys), about.item_sep, about.kv_sep)

    def dirname(self, task: Sequence[str]) -> str:
        """Return the text of a cell's overrides, Hydra's own left out."""
        lines = [word for word in task if _group_of(word) not in self.excluded]
        return self.item_sep.join(sorted(lines)).replace("=", self.kv_sep)


def name_cell(cfg: DictConfig, task: Sequence[str], naming: Naming) -> None:
    """Set in Hydra's part of a config what it names a cell's folder by.

    Args: task: the cell's overrides, Hydra's own left out.
    """
    with flag_override(cfg.hydra, ["readonly", "struct"], [False, False]):
        cfg.hydra.job.override_dirname = naming.dirname(task)
        cfg.hydra.overrides.task = list(task)


def _group_of(word: str) -> str:
    """Return an override's key without what Hydra writes before and behind it."""
    return word.partition("=")[0].lstrip("+~").partition("@")[0]


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


@lru_cache(maxsize=4096)
def value_of(key: str, value: str) -> object:
    """Return the value of an override as Hydra reads it."""
    return OverridesParser.create().parse_override(f"{key}={value}").value()
