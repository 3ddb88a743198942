"""What a reward needs of the inputs of its node, checked before a model loads. No torch here."""

from __future__ import annotations

import os

from plumbrule.config import require
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.input_names import is_of_slot
from plumbrule.store.manifests import read_manifest
from rlhf.rewards.config import RewardConfig


def check(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless a configured reward has what its terms need."""
    check_reward(node, node.config)


def check_reward(node: PlacedNode, reward: RewardConfig, setting: str = "reward") -> None:
    """Raise ConfigError unless the reward's terms have what they need.

    Args: setting: what the config calls the reward.
    """
    models = reward_models(node)
    wants = "rm" in reward.weights
    rule = reward.ensemble.rule
    require(
        len(models) > 1 or rule == "mean" or not wants,
        f"{setting}.ensemble.rule",
        rule,
        f"be mean where node {node.name} has one rm input",
        "train more of them with rm.ensemble=3",
    )
    require(
        bool(models) or not wants,
        f"{setting}.terms",
        list(reward.weights),
        f"not hold rm where node {node.name} has no rm input",
        "give the node one or choose another reward",
    )
    for used, section, token in (
        ("http" in reward.weights, "http", reward.http.token_env),
        (reward.asks_judge, "judge_model", reward.judge_model.token_env),
    ):
        require(
            not used or token is None or bool(os.environ.get(token)),
            f"{setting}.{section}.token_env",
            token,
            "name an environment variable that is set",
            "set it, or leave the setting out",
        )
    if reward.asks_judge:
        check_judge(node, reward, setting)
    if rule == "weights":
        check_averaged(models)


def check_judge(node: PlacedNode, reward: RewardConfig, setting: str) -> None:
    """Raise ConfigError unless the terms that ask a language model have exactly one to ask."""
    model, given = reward.judge_model, node.inputs.get("judge")
    named = model.name_or_path if model.url is None else model.url
    require(
        named is not None or given is not None,
        f"{setting}.judge_model",
        None,
        f"name a model where node {node.name} has no judge input",
        f"give {setting}.judge_model.name_or_path or {setting}.judge_model.url, or point the node "
        f"at a policy: nodes.{node.name}.inputs.judge=sft",
    )
    require(
        named is None or given is None,
        f"{setting}.judge_model",
        named,
        f"be left out where node {node.name} has a judge input (={given.name if given else None})",
        f"take one of the two out: nodes.{node.name}.inputs.judge=null",
    )


def reward_models(node: PlacedNode) -> list[PlacedNode]:
    """Return the reward models of a node."""
    return [source for slot, source in node.inputs.items() if is_of_slot(slot, "rm")]


def check_averaged(models: list[PlacedNode]) -> None:
    """Raise ConfigError if weights are to be averaged over models of different starts."""
    starts = {_start(model) for model in models}
    planned = {start for start in starts if start[0]}
    require(
        len(planned) < 2 and len(starts - planned) < 2,
        "reward.ensemble.rule",
        "weights",
        "not be used where reward models start from several policies "
        f"(={sorted(name for _, name in starts)})",
        "use mean, worst or uncertainty, or rm.ensemble_from=head",
    )


def _start(model: PlacedNode) -> tuple[bool, str]:
    """Return the policy that a reward model starts from: whether it is a node that is built here,
    and its name; a given one's fingerprint.

    Whether a node that is still to be built is the policy of a given model is not known here.
    """
    if model.given is not None:
        manifest = read_manifest(model.given)
        return False, manifest.inputs.get("policy", manifest.fingerprint)
    policy = model.inputs.get("policy", model)
    if policy.given is not None:
        return False, read_manifest(policy.given).fingerprint
    return True, policy.name
