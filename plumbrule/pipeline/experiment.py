"""The whole of one run's config, composed, typed and checked. Part of the roof.

Hydra composes `conf/` into these dataclasses; `compose_run` turns the result into a typed
`RunConfig` and its planned nodes, and nothing below it sees OmegaConf. What can be known to be
wrong before a model loads is refused here.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eval.config import CompareConfig, EvalConfig, MethodsConfig, SummaryConfig
from plumbrule.config import (
    AtlasConfig,
    GoldConfig,
    ModelConfig,
    RuntimeConfig,
    refusing_together,
    require,
    require_choice,
    require_sound,
)
from plumbrule.errors import ConfigError, GraphError
from plumbrule.machine.precision import resolved
from plumbrule.pipeline.checks import check
from plumbrule.pipeline.data_sources import fit_to_data, refuse_missing, source_of
from plumbrule.pipeline.given_inputs import take_given
from plumbrule.pipeline.graph import Node, NodeConfig, nearest, order, read_nodes
from plumbrule.pipeline.replicas import expand_ensembles
from plumbrule.pipeline.setting_names import flat, settings_of, unknown_message, unknown_settings
from plumbrule.pipeline.stages import SECTION, STAGES
from plumbrule.pipeline.variations import vary
from plumbrule.tracking.trackers import TrackingConfig
from rag.config import IndexConfig
from rlhf.dpo.config import BestOfNConfig, DPOConfig, RejectConfig
from rlhf.feedback.config import FeedbackConfig, RMConfig
from rlhf.ppo.config import PPOConfig
from rlhf.rewards.config import RewardConfig
from rlhf.studies.config import OveroptimisationConfig
from sft.config import BaseConfig, DataConfig, DatasetConfig, SFTConfig

LONGEST_NAME = 100
"""Of a run, bytes: a folder's name, and with the run's id the name of a group in W&B."""


def store_root(given: str | None) -> str:
    """Return the folder of artifacts/ and runs/: run.store, $PLUMBRULE_STORE or the one here."""
    return given or os.environ.get("PLUMBRULE_STORE") or str(Path.cwd())


@dataclass
class RunSection:
    """How a run is carried out, and for which seeds; no artifact depends on it."""

    name: str = "quickstart"
    """Folder under runs/."""
    store: str | None = None
    """Where artifacts/ and runs/ lie; None: $PLUMBRULE_STORE, else the working directory."""
    goals: list[str] = field(default_factory=lambda: ["compare"])
    """Nodes to build, with all that they need."""
    seeds: list[int] = field(default_factory=list)
    """Seeds for each of which the graph is built; empty: `seed` alone."""
    only: str | None = None
    """Build this node and what it needs, in place of the goals."""
    dry: bool = False
    """Print the plan and stop."""
    versions: str = "show"
    """What to do where a cached artifact was made with other library versions: show or strict."""
    objective: str | None = None
    """Metric that is returned to a sweeper; None: none."""
    notes: list[str] = field(default_factory=list)
    """Sentences that the report prints first, such as what an experiment can't show."""

    def __post_init__(self) -> None:
        require(bool(self.goals), "run.goals", self.goals, "name at least one node", "add compare")
        once = len(set(self.seeds)) == len(self.seeds)
        require(once, "run.seeds", self.seeds, "name each seed once", "take one out")
        require_choice("run.versions", self.versions, ("show", "strict"))
        plain = self.name.isprintable() and not set(self.name) & set('/\\:*?"<>| ')
        short = len(self.name.encode("utf-8", "replace")) <= LONGEST_NAME
        require(
            bool(self.name) and plain and short and self.name[0] not in ".-",
            "run.name",
            f"{self.name!r:.{LONGEST_NAME}}",
            f"be a plain folder name of at most {LONGEST_NAME} bytes",
            "use letters and _",
        )


@dataclass
class RunConfig:
    """Everything that one command says."""

    seed: int = 0
    """What experiments vary; stages read it through their own `seed`."""
    run: RunSection = field(default_factory=RunSection)
    nodes: dict[str, Any] = field(default_factory=dict)
    """Name -> NodeConfig. Typed by `read_nodes` rather than here: Hydra can't add an entry to a
    typed mapping from the command line."""
    model: ModelConfig = field(default_factory=ModelConfig)
    atlas: AtlasConfig = field(default_factory=AtlasConfig)
    gold: GoldConfig = field(default_factory=GoldConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    data: dict[str, DatasetConfig] = field(default_factory=dict)
    """Role -> its own data set, where it is not `dataset`."""
    base: BaseConfig = field(default_factory=BaseConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    rm: RMConfig = field(default_factory=RMConfig)
    rag: IndexConfig = field(default_factory=IndexConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    best_of_n: BestOfNConfig = field(default_factory=BestOfNConfig)
    reject: RejectConfig = field(default_factory=RejectConfig)
    overoptimisation: OveroptimisationConfig = field(default_factory=OveroptimisationConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    methods: MethodsConfig = field(default_factory=MethodsConfig)
    summary: SummaryConfig = field(default_factory=SummaryConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "atlas": AtlasConfig,
    "gold": GoldConfig,
    "dataset": DatasetConfig,
    "base": BaseConfig,
    "sft": SFTConfig,
    "feedback": FeedbackConfig,
    "rm": RMConfig,
    "rag": IndexConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "dpo": DPOConfig,
    "best_of_n": BestOfNConfig,
    "reject": RejectConfig,
    "overoptimisation": OveroptimisationConfig,
    "eval": EvalConfig,
    "compare": CompareConfig,
    "methods": MethodsConfig,
    "summary": SummaryConfig,
    "runtime": RuntimeConfig,
    "tracking": TrackingConfig,
}
"""Config group -> its schema, which its files name as `schema`."""
LINKS: dict[str, dict[str, str]] = {
    "base": {"model": "${model}"},
    "sft": {"seed": "${seed}", "model": "${model}"},
    "feedback": {"seed": "${seed}", "gold": "${gold}", "reward.gold": "${gold}"},
    "rm": {"seed": "${seed}"},
    "reward": {"gold": "${gold}"},
    "ppo": {"seed": "${seed}", "reward": "${reward}"},
    "dpo": {"seed": "${seed}"},
    "best_of_n": {"reward": "${reward}"},
    "reject": {"reward": "${reward}"},
    "eval": {"seed": "${seed}", "gold": "${gold}"},
}
"""Group -> settings that follow another part of the config unless the group is given its own.

They stand here because YAML cannot link a typed node. `base` has a seed of its own, so that varying
`seed` keeps the base model."""


def schemas() -> dict[str, DictConfig]:
    """Return each group's schema with its links, and the whole config's under the empty name."""
    found = {"": OmegaConf.structured(RunConfig)}
    for group, schema in GROUPS.items():
        found[group] = OmegaConf.structured(schema)
        for name, link in LINKS.get(group, {}).items():
            OmegaConf.update(found[group], name, link)
    return found


def from_hydra(cfg: DictConfig) -> tuple[RunConfig, list[Node]]:
    """Return the config and the nodes of `compose_run`. Raises: as that does."""
    return compose_run(cfg)[:2]


class Composed(NamedTuple):
    """A run before it is planned. goals: those that the data can fill; left_out: sentences."""

    config: RunConfig
    nodes: list[Node]
    goals: list[str]
    left_out: list[str]


def compose_run(cfg: DictConfig) -> Composed:
    """Return the typed config, the nodes that its goals need (inputs before users), these goals,
    and what was left out for want of data.

    Raises: ConfigError, GraphError: anything that can be known before a model loads.
    """
    refuse_unknown(cfg)
    missing = _missing_values(cfg)
    config = _typed(cfg)
    seeds = config.run.seeds or [config.seed]
    composed = {seed: _with_seed(cfg, seed) for seed in config.run.seeds} or {config.seed: cfg}
    configs = {seed: _typed(one) for seed, one in composed.items()}
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
        return _config(composed[seed], configs[seed], name, node, own)

    varied = vary(names, graphs, config_of)
    nodes = [
        dataclasses.replace(node, config=resolved(node.config, config.runtime.device))
        for node in _needed(varied, goals)
    ]
    check(config, nodes)
    return Composed(config, nodes, [n.name for goal in goals for n in varied[goal]], first.left_out)


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
        section = SECTION.get(about.kind, about.kind)
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
        section = SECTION.get(str(kind), kind)
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
    section = SECTION.get(node.kind, node.kind)
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
    unknown = set(delta) - {"role"}
    if unknown or "role" not in delta:
        raise ConfigError(f"nodes.{name}.set (={dict(delta)}) must give a role and nothing else.")
    role = str(delta["role"])
    dataset, per_group = source_of(config, role), None
    if role in ("halueval", "bold"):
        per_group = (
            config.eval.halueval.per_task if role == "halueval" else config.eval.bold.per_group
        )
    atlas = config.atlas.read_by(role) if dataset.format == "atlas" else None
    return DataConfig(role=role, dataset=dataset, atlas=atlas, per_group=per_group)


def _one_line(error: Exception) -> str:
    """Return OmegaConf's error as one line that starts with the key."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key")]
    return f"{found[0]}: {lines[0]}" if found else lines[0]


def as_json(config: Any) -> Any:
    """Return the JSON form of a config dataclass, for records.

    An artifact that is given is told by its name, never by where it lies on this machine.
    """
    plain = dataclasses.asdict(config)
    for node in plain.get("nodes", {}).values():
        if isinstance(node, dict) and node.get("given") is not None:
            node["given"] = f"{node['kind']}/{node['given']['fingerprint']}"
    return plain
