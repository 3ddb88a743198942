"""What PPO's settings need of its node's inputs, checked before a model loads. No torch here."""

from __future__ import annotations

from plumbrule.config import require
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from rlhf.ppo.config import PPOConfig
from rlhf.rewards.config import RequireConfig
from rlhf.rewards.graph_checks import check_reward, reward_models


def check(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError for settings that the node's inputs, or its processes, don't allow."""
    config: PPOConfig = node.config
    require(
        runtime.sharding == "none" or config.unfrozen_layers is None,
        "ppo.unfrozen_layers",
        config.unfrozen_layers,
        f"be left out under runtime.sharding={runtime.sharding}",
        "use ppo.adapter.rank, or runtime.sharding=none",
    )
    if "continues" in node.inputs:
        check_continued(node, node.inputs["continues"])
    require(
        not config.search.is_on or "index" in node.inputs,
        "ppo.search.max_turns",
        f"{config.search.max_turns} turns",
        f"be 1 where node {node.name} has no index",
        f"set it to 1, or give the node one: +nodes.{node.name}.inputs.index=index",
    )
    check_reward(node, config.reward)
    if config.distill.coef > 0:
        check_teacher(node, config, runtime)
    require(
        config.stop_at is None or "overoptimisation" in node.inputs,
        "ppo.stop_at",
        config.stop_at,
        f"be null where node {node.name} has no input overoptimisation",
        "give it one, such as +nodes.ppo.inputs.overoptimisation=overoptimisation",
    )
    require(
        bool(reward_models(node)) or config.value_init != "rm",
        "ppo.value_init",
        config.value_init,
        f"be policy where node {node.name} has no rm input",
        "change it",
    )
    require(
        "rm" in config.reward.weights or config.require_rm == RequireConfig(),
        "ppo.require_rm",
        "set",
        f"be left out where the reward of node {node.name} has no term rm",
        "take it out",
    )


def check_teacher(node: PlacedNode, config: PPOConfig, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless there is exactly one teacher, and no weights are spread."""
    named, given = config.distill.name_or_path, node.inputs.get("teacher")
    source = None if given is None else given.name
    require(
        (named is None) != (given is None),
        "ppo.distill.name_or_path",
        named,
        f"name a teacher if and only if node {node.name} has no teacher input (={source})",
        f"name one, or point the node at a policy: +nodes.{node.name}.inputs.teacher=<node>"
        if named is None
        else f"take one of the two out: ~nodes.{node.name}.inputs.teacher",
    )
    require(
        runtime.sharding == "none",
        "ppo.distill.coef",
        config.distill.coef,
        f"be 0 under runtime.sharding={runtime.sharding}: a teacher is held whole",
        "use runtime.sharding=none, with ppo.distill.precision=bfloat16 where memory is short",
    )


def check_continued(node: PlacedNode, before: PlacedNode) -> None:
    """Raise ConfigError unless a PPO that goes on trains what the one before it did."""
    if before.given is not None:
        return
    start, first = node.inputs["policy"].name, before.inputs["policy"].name
    require(
        start == first,
        f"nodes.{node.name}.inputs.policy",
        start,
        f"be {first}, where node {before.name} that it continues started: it is the reference of "
        "both",
        "point it there",
    )
    for setting in ("adapter", "unfrozen_layers", "value_trunk", "has_value_model", "adam"):
        here, there = getattr(node.config, setting), getattr(before.config, setting)
        name = "advantage" if setting == "has_value_model" else setting
        require(
            here == there,
            f"nodes.{node.name}.set.{name}",
            getattr(node.config, name),
            f"train the weights that node {before.name} trained (={getattr(before.config, name)})",
            "leave it as it was there",
        )
