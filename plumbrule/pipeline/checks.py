"""What can be wrong between settings that are fine alone, found before a model loads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbrule.config import require
from plumbrule.data.readers import READERS, brings_own_split
from plumbrule.data.row_files import TABLE_ENDINGS
from plumbrule.errors import ConfigError, DataError
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.launch import SLURM
from plumbrule.pipeline.stages import STAGES, answers_prompts, slot_of
from plumbrule.store.hub import FORM
from plumbrule.store.input_names import is_of_slot
from plumbrule.store.manifests import read_manifest
from plumbrule.store.packaged_files import shipped_world
from plumbrule.store.source_files import is_hub_data
from rlhf.rewards.config import RequireConfig, RewardConfig
from sft.data.config import DatasetConfig

if TYPE_CHECKING:
    from plumbrule.pipeline.experiment import RunConfig


def check(config: RunConfig, nodes: list[Node]) -> None:
    """Raise ConfigError for settings that are fine alone and can't run together."""
    context = config.model.context
    check_datasets(config)
    check_world(config, nodes)
    check_processes(config, nodes)
    check_held_out(config, nodes)
    own = [node for node in nodes if not isinstance(node.config, Given)]
    read = {node.config.role for node in own if node.kind == "data"}
    for role in config.data:
        require(
            role in read,
            f"data.{role}",
            config.data[role].format,
            "be read by a planned node",
            "choose a model from scratch, such as model=micro: one that is named reads no corpus"
            if role == "corpus" and config.model.name_or_path is not None
            else f"point a node at it, such as nodes.rm.inputs.preferences={role}",
        )
    for node in own:
        stage = STAGES[node.kind]
        if answers_prompts(node.kind):
            check_fit(node, context)
        if node.kind == "eval" and "reference" in node.inputs:
            require(
                node.config.sampling.temperature > 0,
                "eval.sampling.temperature",
                node.config.sampling.temperature,
                f"be above 0 where node {node.name} has an input reference",
                "greedy answers have no KL; raise it or leave the reference out",
            )
        if stage.compares_gold:
            check_gathered(node, nodes)
        if node.kind == "summary":
            require(
                bool(node.config.metrics),
                "summary.metrics",
                node.config.metrics,
                f"name what node {node.name} shall summarise",
                "give headline metrics of its inputs",
            )
        if node.kind == "ppo" and "continues" in node.inputs:
            check_continued(node, nodes)
        reward = stage.reward(node.config)
        if reward is not None:
            check_reward(node, reward)
            check_averaged(node, reward, nodes)
        if node.kind == "feedback" and node.config.labeller == "judge":
            check_judge(node)
        if node.kind == "sft" and "base" not in node.inputs:
            require(
                node.config.model.name_or_path is not None,
                "model.name_or_path",
                None,
                "name a model where sft has no base input",
                "choose model=<file of conf/model> or set model.name_or_path=<folder or hub name>",
            )


UNREAD = {
    "atlas": ("path", "validation_share", "split_seed", "annotators"),
    "hh_rlhf": ("annotators",),
    "halueval": ("validation_share", "split_seed", "annotators"),
    "bold": ("validation_share", "split_seed", "annotators"),
}
"""Format -> settings of a data set that it does not read."""


def check_datasets(config: RunConfig) -> None:
    """Raise ConfigError for a setting of a data set that its format does not read.

    What is left at its default does not count as set.
    """
    own = {f"data.{role}": dataset for role, dataset in config.data.items()}
    formats = dict.fromkeys(["jsonl", *(format for format, _ in READERS)])
    for name, dataset in ({"dataset": config.dataset} | own).items():
        group = name if name == "dataset" else f"dataset@{name}"
        for setting in UNREAD.get(dataset.format, ()):
            readers = [f for f in formats if setting not in UNREAD.get(f, ())]
            add = f"add {group}={readers[0]}"
            if name == "dataset" and setting == "path":
                add += ", or experiment=own"
            require(
                getattr(dataset, setting) == getattr(DatasetConfig(), setting),
                f"{name}.{setting}",
                getattr(dataset, setting),
                f"be left out with {group}={dataset.format}, which does not read it; it is read by "
                f"{group}={' or '.join(readers)}",
                add,
            )
        check_path(f"{name}.path", dataset)


NO_TABLES = (".tsv", ".txt", ".xlsx", ".xls", ".arrow", ".zip", ".tar.gz", ".pkl")
"""Endings of files that people give and no reader of ours reads."""


def check_path(setting: str, dataset: DatasetConfig) -> None:
    """Raise ConfigError for a path that is a URL, a name on the hub or a file of another form."""
    path = dataset.path
    known = (dataset.format, "prompts") in READERS and not dataset.source
    if path is None or not known or is_hub_data(path):
        return
    require(
        "://" not in path,
        setting,
        path,
        "be a file or folder of this machine, not a URL",
        f"download it and name the file, or give a data set of the hub as {FORM}",
    )
    owner, slash, name = path.partition("/")
    hub = bool(slash and owner and name) and "/" not in name and owner[0] not in ".~"
    require(
        not hub or "." in name or Path(path).exists() or Path(owner).exists(),
        setting,
        path,
        "be a file or folder, and there is none of that name here",
        "check the path; a data set of Hugging Face's hub is fetched with `hf download --repo-type "
        f"dataset {path} --local-dir {name}`, then {setting}={name}, or given as {FORM}",
    )
    require(
        dataset.format != "jsonl" or not path.lower().endswith(NO_TABLES),
        setting,
        path,
        f"end in one of {', '.join(TABLE_ENDINGS)}",
        "write a .tsv as CSV, with commas, or any table as JSON Lines (docs/bring_data.md)",
    )


def check_processes(config: RunConfig, nodes: list[Node]) -> None:
    """Raise ConfigError where a stage can't run in the processes that are asked for."""
    runtime = config.runtime
    own = [node for node in nodes if not isinstance(node.config, Given)]
    parallel = [node for node in own if STAGES[node.kind].parallel]
    require(
        runtime.nodes == 1 or not parallel or all(name in os.environ for name in SLURM),
        "runtime.nodes",
        runtime.nodes,
        "be 1 outside a Slurm batch script",
        "start the command in a batch script (docs/distributed.md), or leave it out",
    )
    for node in parallel:
        require(
            runtime.sharding == "none" or node.config.unfrozen_layers is None,
            "ppo.unfrozen_layers",
            node.config.unfrozen_layers,
            f"be left out under runtime.sharding={runtime.sharding}",
            "use ppo.adapter.rank, or runtime.sharding=none",
        )


def check_held_out(config: RunConfig, nodes: list[Node]) -> None:
    """Raise ConfigError where a stage measures on held-out rows and its source holds none out."""
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        for slot, source in node.inputs.items():
            taken = slot_of(node.kind, slot)
            if taken is None or not taken.held_out:
                continue
            given = by_name[source]
            if given.kind == "feedback" and not isinstance(given.config, Given):
                given = by_name[given.inputs["prompts"]]  # its rankings are held out as these are
            if isinstance(given.config, Given):
                continue  # its stage counts the rows
            if given.kind == "data" and not _holds_out(given.config.dataset):
                role = given.config.role
                require(
                    False,
                    f"data.{role}.validation_share" if role in config.data else VALIDATION_SHARE,
                    0,
                    f"be above 0 where node {node.name} measures on held-out rows of {given.name}",
                    "raise it, or give a folder with a train and a validation file",
                )


VALIDATION_SHARE = "dataset.validation_share"


def _holds_out(dataset: DatasetConfig) -> bool:
    """Return whether some rows will be held out, as far as file names tell."""
    if dataset.validation_share > 0 or dataset.path is None:
        return True
    try:
        return brings_own_split(dataset.format, dataset.path) is not False
    except DataError:
        return True  # the fingerprint of the path says what is wrong with it


def check_gathered(node: Node, nodes: list[Node]) -> None:
    """Raise ConfigError unless what a study gathers has what it reads."""
    by_name = {other.name: other for other in nodes}
    for slot, source in node.inputs.items():
        given = by_name[source]
        if isinstance(given.config, Given):
            continue
        if given.kind == "eval" and is_of_slot(slot, "policy"):
            require(
                "reference" in given.inputs and "prompts" in given.inputs,
                f"nodes.{node.name}.inputs.{slot}",
                source,
                "have inputs prompts and reference, for gold and KL",
                "give it the policy that the baseline evaluates as reference",
            )
        if given.kind == "ppo":
            require(
                "gold" in given.config.reward.weights,
                f"nodes.{node.name}.inputs.{slot}",
                source,
                "have the gold utility in its reward, at weight 0 where it shall not count",
                "add {name: gold, weight: 0} to reward.terms",
            )
        if given.kind == "best_of_n":
            samples = by_name[given.inputs["samples"]].config
            labeller = _labeller(samples)
            require(
                labeller == "gold",
                f"nodes.{node.name}.inputs.{slot}",
                source,
                f"choose among answers whose utility is known, not ranked by {labeller}",
                "use feedback.labeller=gold",
            )


def _labeller(feedback: Any) -> str:
    """Return who ranks the answers of a feedback node, or ranked those of a given artifact."""
    if isinstance(feedback, Given):
        return str(read_manifest(Path(feedback.path)).config.get("labeller"))
    return str(feedback.labeller)


def check_world(config: RunConfig, nodes: list[Node]) -> None:
    """Raise ConfigError unless a shipped model is used in the world that it was taught."""
    nodes = [node for node in nodes if not isinstance(node.config, Given)]
    generated = any(node.kind == "data" and node.config.dataset.format == "atlas" for node in nodes)
    opened = {
        node.config.model.name_or_path
        for node in nodes
        if node.kind == "base" or (node.kind == "sft" and "base" not in node.inputs)
    } - {None}
    for name in sorted(opened) if generated else []:
        for setting, value in shipped_world(name).items():
            require(
                getattr(config.atlas, setting) == value,
                f"atlas.{setting}",
                getattr(config.atlas, setting),
                f"be {value} with model.name_or_path={name}, which was taught that world",
                "train a base of your own with experiment=atlas_world",
            )


def check_fit(node: Node, context: int) -> None:
    """Raise ConfigError unless a question, its passages and a response can fit the context."""
    retrieves = "index" in node.inputs and (
        node.config.retrieval.share > 0 if node.kind != "eval" else "rag" in node.config.conditions
    )
    passages = node.config.retrieval.budget_tokens if retrieves else 0
    response = node.config.sampling.max_new_tokens
    if node.kind != "eval" and node.config.retrieval.share > 0 and "index" not in node.inputs:
        raise ConfigError(
            f"{node.name}: retrieval.share (={node.config.retrieval.share}) must be 0 without an "
            "index input; set it to 0, or give the node one."
        )
    require(
        passages + response + 8 <= context,
        f"{node.name}: sampling.max_new_tokens",
        f"{response} tokens",
        f"leave room for a prompt: with {passages} tokens of passages it must stay "
        f"{8} below model.context (={context})",
        "lower it or retrieval.budget_tokens, or choose a model with a longer context",
    )


def check_reward(node: Node, own: RewardConfig) -> None:
    """Raise ConfigError unless the reward's terms have what they need."""
    reward = "feedback.reward" if node.kind == "feedback" else "reward"
    models = [slot for slot in node.inputs if is_of_slot(slot, "rm")]
    own = node.config if node.kind == "reward" else node.config.reward
    wants = "rm" in own.weights
    rule = own.ensemble.rule
    require(
        len(models) > 1 or rule == "mean" or not wants,
        f"{reward}.ensemble.rule",
        rule,
        f"be mean where node {node.name} has one rm input",
        "train more of them with rm.ensemble=3",
    )
    require(
        bool(models) or not wants,
        f"{reward}.terms",
        list(own.weights),
        f"not hold rm where node {node.name} has no rm input",
        "give the node one or choose another reward",
    )
    if node.kind == "ppo":
        require(
            node.config.stop_at is None or "overoptimisation" in node.inputs,
            "ppo.stop_at",
            node.config.stop_at,
            f"be null where node {node.name} has no input overoptimisation",
            "give it one, such as +nodes.ppo.inputs.overoptimisation=overoptimisation",
        )
        require(
            bool(models) or node.config.value_init != "rm",
            "ppo.value_init",
            node.config.value_init,
            f"be policy where node {node.name} has no rm input",
            "change it",
        )
        require(
            wants or node.config.require_rm == RequireConfig(),
            "ppo.require_rm",
            "set",
            f"be left out where the reward of node {node.name} has no term rm",
            "take it out",
        )
    token = own.http.token_env
    require(
        "http" not in own.weights or token is None or bool(os.environ.get(token)),
        f"{reward}.http.token_env",
        token,
        "name an environment variable that is set",
        "set it, or leave the setting out",
    )


def check_continued(node: Node, nodes: list[Node]) -> None:
    """Raise ConfigError unless a PPO that goes on trains what the one before it did."""
    before = next((other for other in nodes if other.name == node.inputs["continues"]), None)
    if before is None or isinstance(before.config, Given):
        return
    require(
        node.inputs["policy"] == before.inputs["policy"],
        f"nodes.{node.name}.inputs.policy",
        node.inputs["policy"],
        f"be {before.inputs['policy']}, where node {before.name} that it continues started: it is "
        "the reference of both",
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


def check_judge(node: Node) -> None:
    """Raise ConfigError unless a feedback node has one judge: a model by name, or an input."""
    named, given = node.config.judge.name_or_path, node.inputs.get("judge")
    require(
        (named is None) != (given is None),
        "feedback.judge.name_or_path",
        named,
        f"name a model if and only if node {node.name} has no judge input (={given})",
        f"name one, or point the node at a policy: nodes.{node.name}.inputs.judge=sft"
        if named is None
        else f"take one of the two out: nodes.{node.name}.inputs.judge=null",
    )


def check_averaged(node: Node, own: RewardConfig, nodes: list[Node]) -> None:
    """Raise ConfigError if weights are to be averaged over models of different starts."""
    if own.ensemble.rule != "weights":
        return
    by_name = {other.name: other for other in nodes}
    models = [by_name[source] for slot, source in node.inputs.items() if is_of_slot(slot, "rm")]
    starts = {_start(model, by_name) for model in models}
    planned = {start for start in starts if start in by_name}
    require(
        len(planned) < 2 and len(starts - planned) < 2,
        "reward.ensemble.rule",
        "weights",
        f"not be used where reward models start from several policies (={sorted(starts)})",
        "use mean, worst or uncertainty, or rm.ensemble_from=head",
    )


def _start(model: Node, by_name: Mapping[str, Node]) -> str:
    """Return the policy that a reward model starts from: its node; a given one's fingerprint.

    Whether a node that is still to be built is the policy of a given model is not known here.
    """
    if isinstance(model.config, Given):
        return read_manifest(Path(model.config.path)).inputs.get("policy", model.config.fingerprint)
    source = model.inputs.get("policy", model.name)
    config = by_name[source].config
    return config.fingerprint if isinstance(config, Given) else source
