"""From what Hydra composes to the nodes of a run.

Hydra composes `conf/` into the dataclasses of `experiment.py`; `compose_run` turns the result into
a typed `RunConfig` and its planned nodes, and nothing below it sees OmegaConf. What can be known to
be wrong before a model loads is refused here.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eval.benchmarks.registry import BENCHMARKS
from plumbrule.config import refusing_together, require_choice, require_sound
from plumbrule.errors import ConfigError, GraphError
from plumbrule.machine.precision import resolved
from plumbrule.pipeline.checks import check
from plumbrule.pipeline.data_sources import fit_to_data, items_of, refuse_missing, source_of
from plumbrule.pipeline.experiment import GROUPS, RunConfig
from plumbrule.pipeline.given_inputs import take_given
from plumbrule.pipeline.graph import Node, NodeConfig, nearest, order, read_nodes
from plumbrule.pipeline.planning.revisions import settle_revisions
from plumbrule.pipeline.planning.value_cells import Reuse
from plumbrule.pipeline.replicas import expand_ensembles
from plumbrule.pipeline.setting_names import flat, settings_of, unknown_message, unknown_settings
from plumbrule.pipeline.stages import STAGES, section_of
from plumbrule.pipeline.variations import vary
from plumbrule.store.layout import store_root
from sft.data.config import ROLES, DataConfig


def from_hydra(cfg: DictConfig) -> tuple[RunConfig, list[Node]]:
    """Return the config and the nodes of `compose_run`. Raises: as that does."""
    return compose_run(cfg)[:2]


class Composed(NamedTuple):
    """A run before it is planned. goals: those that the data can fill; left_out: sentences.

    resolved: branches of the hub that became commits, as sentences.
    """

    config: RunConfig
    nodes: list[Node]
    goals: list[str]
    left_out: list[str]
    resolved: Sequence[str] = ()


def compose_run(cfg: DictConfig, reuse: Reuse | None = None) -> Composed:
    """Return the typed config, the nodes that its goals need (inputs before users), these goals,
    and what was left out for want of data.

    Args: reuse: of several runs that differ by values of stages' settings; the first fills it in.
    Raises: ConfigError, GraphError: anything that can be known before a model loads. NotAlone: the
    values that `reuse` was told of reach further.
    """
    missing: list[str] = []
    if reuse is None or reuse.is_first:
        refuse_unknown(cfg)
        missing = _missing_values(cfg)
        settled = settle_revisions(cfg)
        config = _typed(cfg)
        if reuse is not None:
            reuse.keep(config, settled)
    else:
        config, settled = reuse.typed(cfg), reuse.settled
    seeds = config.run.seeds or [config.seed]
    composed = {seed: _with_seed(cfg, seed) for seed in config.run.seeds} or {config.seed: cfg}
    configs = {s: _typed(one) if config.run.seeds else config for s, one in composed.items()}
    asked = [config.run.only] if config.run.only else config.run.goals
    key = "run.only" if config.run.only else "run.goals"
    root = Path(store_root(config.run.store))
    read = {s: take_given(read_nodes(one.nodes), root) for s, one in configs.items()}
    order(read[seeds[0]], asked, key)
    fitted = {s: fit_to_data(one, read[s], asked) for s, one in configs.items()}
    first = fitted[seeds[0]]
    refuse_missing([*missing, *first.missing])
    goals = first.goals
    graphs = {s: expand_ensembles(configs[s], fitted[s].nodes) for s in configs}
    config.nodes = dict(graphs[seeds[0]])
    config.run.notes = [
        *config.run.notes,
        *(f"{line[0].upper()}{line[1:]}." for line in first.left_out),
    ]
    names = order(graphs[seeds[0]], goals, key)

    def config_of(seed: int, name: str, own: Mapping[str, Any]) -> Any:
        node = graphs[seed][name]
        known = None if reuse is None else reuse.node(configs[seed], name, node, own)
        if known is not None:
            return known
        made = _config(composed[seed], configs[seed], name, node, own)
        return made if reuse is None else reuse.keep_node(configs[seed], name, node, own, made)

    varied = vary(names, graphs, config_of)
    with_precision = resolved if reuse is None else reuse.resolved
    nodes = [
        dataclasses.replace(node, config=with_precision(node.config, config.runtime.device))
        for node in _needed(varied, goals)
    ]
    check(config, nodes)
    reached = [n.name for goal in goals for n in varied[goal]]
    return Composed(config, nodes, reached, first.left_out, settled)


def _missing_values(cfg: DictConfig) -> list[str]:
    """Return what a file of conf/ leaves to the command, as `?`; it is then taken for None.

    Not Hydra's `???`, which does not replace a default.
    """
    found = []
    if cfg.model.name_or_path == "?":
        found.append(
            "model.name_or_path (=None) must name a model; pass model=<folder or hub name>, or a "
            "file of conf/model"
        )
        cfg.model.name_or_path = None
    return found


def refuse_unknown(cfg: DictConfig) -> None:
    """Raise ConfigError for settings that nothing reads, wherever they come from.

    Hydra itself refuses those that are not forced in with `+`.
    """
    unknown = unknown_settings(cfg)
    for name, about in cfg.nodes.items():
        if not isinstance(about, DictConfig) or about.get("kind") not in STAGES:
            continue  # `read_nodes` refuses it
        section = section_of(about.kind)
        if section not in GROUPS:
            continue
        known = set(settings_of(GROUPS[section]))
        for part in ("set", "each"):
            given = about.get(part)
            keys = flat(OmegaConf.to_container(given)) if isinstance(given, DictConfig) else ()
            for key in keys:
                above = key.rpartition(".")[0]
                if key not in known and (not above or above in known):
                    unknown.append(f"nodes.{name}.{part}.{key}")
    if unknown:
        raise ConfigError(unknown_message(unknown, _known_settings(cfg), KEYS))


KEYS = "plumbrule --cfg job prints all keys."


def _known_settings(cfg: DictConfig) -> list[str]:
    """Return the settings of the config, and those that each node's `set` may have."""
    known = list(settings_of(RunConfig))
    for name, about in cfg.nodes.items():
        kind = about.get("kind") if isinstance(about, DictConfig) else None
        section = section_of(str(kind))
        if section in GROUPS:
            own = settings_of(GROUPS[section])
            known += [f"nodes.{name}.{part}.{key}" for part in ("set", "each") for key in own]
    return known


def _typed(cfg: DictConfig) -> RunConfig:
    """Return the config as dataclasses. Raises: ConfigError."""
    try:
        with refusing_together():
            config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from None
    assert isinstance(config, RunConfig)
    require_sound(config)
    return config


def _with_seed(cfg: DictConfig, seed: int) -> DictConfig:
    """Return the config as `seed=<seed>` composes it."""
    other = copy.deepcopy(cfg)
    other.seed = seed
    return other


def _needed(varied: Mapping[str, list[Node]], goals: list[str]) -> list[Node]:
    """Return the nodes that the goals still need once inputs that no stage reads are left out."""
    kept: list[Node] = []
    wanted = {node.name for goal in goals for node in varied[goal]}
    for node in reversed([n for nodes in varied.values() for n in nodes]):  # users come last
        if node.name in wanted:
            kept.append(node)
            wanted |= set(node.inputs.values())
    return kept[::-1]


def _config(
    cfg: DictConfig, config: RunConfig, name: str, node: NodeConfig, own: Mapping[str, Any]
) -> Any:
    """Return the typed config of a node: its kind's, its delta and its own variation merged in.

    Args: own: dotted setting -> value.
    """
    if node.given is not None:
        return node.given
    if node.kind == "data":
        return _data_config(config, name, {**node.set, **own})
    section = section_of(node.kind)
    try:
        unknown = next((k for k in [*node.set, *own] if k.split(".")[0] not in cfg[section]), None)
        if unknown is not None:
            raise GraphError(
                f"nodes.{name}.set (={unknown}) must be a setting of {section}; "
                f"{nearest(unknown, cfg[section])}"
            )
        delta = OmegaConf.create(dict(node.set))
        for setting, value in own.items():
            OmegaConf.update(delta, setting, value)
        merged = OmegaConf.merge(cfg[section], delta) if delta else cfg[section]
        typed = OmegaConf.to_object(merged)
        require_sound(typed, section)
        return typed
    except OmegaConfBaseException as error:
        raise ConfigError(f"nodes.{name}.set: {_one_line(error)}") from None
    except GraphError:
        raise
    except ConfigError as error:
        raise ConfigError(f"node {name}: {error}") from None


def _data_config(config: RunConfig, name: str, delta: Mapping[str, Any]) -> DataConfig:
    """Return a data node's config: its role's data set, or the benchmark's folder under `eval`."""
    unknown = set(delta) - {"role", "train_split"}
    if unknown or "role" not in delta:
        raise ConfigError(f"nodes.{name}.set (={dict(delta)}) must give a role and nothing else.")
    role = str(delta["role"])
    known = [*ROLES, *(name for name in BENCHMARKS if name not in ROLES)]
    require_choice(f"nodes.{name}.set.role", role, known)
    is_train_split = bool(delta.get("train_split"))
    dataset, items = source_of(config, role, is_train_split), items_of(role)
    per_group = None
    if items is not None and not is_train_split:
        per_group = BENCHMARKS[role].per_group(config.eval)
    atlas = config.atlas.read_by(role) if dataset.format == "atlas" else None
    made = DataConfig(role, dataset, atlas, items, per_group)
    if made.is_split and config.fold is not None:  # what is used whole is shared by all folds
        made = dataclasses.replace(made, folds=config.folds, fold=config.fold)
    return made


def _one_line(error: Exception) -> str:
    """Return OmegaConf's error as one line that starts with the key."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key")]
    return f"{found[0]}: {lines[0]}" if found else lines[0]
