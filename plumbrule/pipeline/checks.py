"""What can be wrong between settings that are fine alone, found before a model loads.

What a stage's settings need of its inputs, its declaration says (`plumbrule/stage_kind.py`).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumbrule.atlas.config import ATLAS_UNREAD
from plumbrule.config import require
from plumbrule.data.readers import FORMATS, READERS, brings_own_split
from plumbrule.data.row_files import TABLE_ENDINGS
from plumbrule.errors import ConfigError, DataError
from plumbrule.pipeline.data_sources import ATLAS
from plumbrule.pipeline.experiment import DatasetConfig, RunConfig
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.launch import SLURM
from plumbrule.pipeline.stages import STAGES, answers_prompts, slot_of
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.hub import FORM
from plumbrule.store.input_names import is_of_slot
from plumbrule.store.packaged_files import shipped_world
from plumbrule.store.source_files import is_hub_data


def check(config: RunConfig, nodes: list[Node]) -> None:
    """Raise ConfigError for settings that are fine alone and can't run together.

    Args: nodes: to be built or given, inputs before users.
    """
    check_datasets(config)
    check_folds(config, nodes)
    every = place(nodes)
    own = [node for node in every if node.given is None]
    check_world(config, own)
    check_processes(config, own)
    for node in every:
        check_held_out(config, node)
    check_roles(config, own)
    for node in own:
        if answers_prompts(node.kind):
            check_fit(node, config.model.context)
        check_gathered(node)
        run = STAGES[node.kind].check
        if run is not None:
            module, name = run.split(":")
            getattr(importlib.import_module(module), name)(node, config.runtime)


def place(nodes: Iterable[Node]) -> list[PlacedNode]:
    """Return the nodes, each with those that fill its inputs. Args: nodes: inputs before users."""
    placed: dict[str, PlacedNode] = {}
    for node in nodes:
        given = isinstance(node.config, Given)
        placed[node.name] = PlacedNode(
            node.name,
            node.kind,
            {slot: placed[source] for slot, source in node.inputs.items()},
            None if given else node.config,
            Path(node.config.path) if given else None,
        )
    return list(placed.values())


def check_roles(config: RunConfig, nodes: list[PlacedNode]) -> None:
    """Raise ConfigError where no node to be built reads a role's own data set."""
    read = {node.config.role for node in nodes if STAGES[node.kind].prepares_data}
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


def check_datasets(config: RunConfig) -> None:
    """Raise ConfigError for a setting of a data set that its format does not read.

    What is left at its default does not count as set.
    """
    own = {f"data.{role}": dataset for role, dataset in config.data.items()}
    formats = dict.fromkeys(["jsonl", *(format for format, _ in READERS)])
    for name, dataset in ({"dataset": config.dataset} | own).items():
        group = name if name == "dataset" else f"dataset@{name}"
        for setting in unread_settings(dataset.format):
            readers = [f for f in formats if setting not in unread_settings(f)]
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


def unread_settings(format: str) -> tuple[str, ...]:
    """Return the settings of a data set that a format does not read."""
    if format == ATLAS:
        return ATLAS_UNREAD
    return FORMATS[format].unread_settings if format in FORMATS else ()


def check_folds(config: RunConfig, nodes: Iterable[Node]) -> None:
    """Raise ConfigError where folds are asked for and a source can't be cut into them."""
    if config.folds is None:
        return
    data = [node.config for node in nodes if STAGES[node.kind].prepares_data]
    split = [one for one in data if not isinstance(one, Given) and one.is_split]
    require(
        bool(split),
        "folds",
        config.folds,
        "be left out where no node to be built holds rows of its data out",
        "take it out, or build a node that reads rankings, demonstrations or prompts",
    )
    for one in split:
        own = one.dataset.format == ATLAS or _brings_own_split(one.dataset)
        require(
            not own,
            "folds",
            config.folds,
            f"be left out where the source of {one.role} brings its own held-out rows",
            "give that role one file without them, as experiment=own dataset.path=<file>",
        )


def _brings_own_split(dataset: DatasetConfig) -> bool | None:
    """Return whether a source holds rows out itself, as far as file names tell; None: not known."""
    try:
        return brings_own_split(dataset.format, str(dataset.path))
    except DataError:
        return None  # the fingerprint of the path says what is wrong with it


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


def check_processes(config: RunConfig, nodes: list[PlacedNode]) -> None:
    """Raise ConfigError where machines are asked for that nobody has set aside."""
    runtime = config.runtime
    parallel = any(STAGES[node.kind].parallel for node in nodes)
    require(
        runtime.nodes == 1 or not parallel or all(name in os.environ for name in SLURM),
        "runtime.nodes",
        runtime.nodes,
        "be 1 outside a Slurm batch script",
        "start the command in a batch script (docs/distributed.md), or leave it out",
    )


def check_held_out(config: RunConfig, node: PlacedNode) -> None:
    """Raise ConfigError where a stage measures on held-out rows and its source holds none out."""
    for slot, source in node.inputs.items():
        taken = slot_of(node.kind, slot)
        if taken is None or not taken.held_out:
            continue
        while source.given is None and (like := STAGES[source.kind].held_out_like) is not None:
            source = source.inputs[like]
        if source.given is not None:
            continue  # its stage counts the rows
        if STAGES[source.kind].prepares_data and not _holds_out(source.config):
            role = source.config.role
            require(
                False,
                f"data.{role}.validation_share" if role in config.data else VALIDATION_SHARE,
                0,
                f"be above 0 where node {node.name} measures on held-out rows of {source.name}",
                "raise it, or give a folder with a train and a validation file",
            )


VALIDATION_SHARE = "dataset.validation_share"


def _holds_out(config: Any) -> bool:
    """Return whether a data node will hold some rows out, as far as file names tell."""
    dataset = config.dataset
    if config.fold is not None or dataset.validation_share > 0 or dataset.path is None:
        return True
    return _brings_own_split(dataset) is not False


def check_gathered(node: PlacedNode) -> None:
    """Raise ConfigError unless what a study of gold gathers knows the gold utility."""
    slots = [name for name, slot in STAGES[node.kind].slots.items() if slot.compares_gold]
    for slot, source in node.inputs.items():
        if source.given is not None or not any(is_of_slot(slot, name) for name in slots):
            continue
        lack = STAGES[source.kind].lacks_gold(source)
        if lack is not None:
            require(False, f"nodes.{node.name}.inputs.{slot}", source.name, *lack)


@lru_cache(maxsize=8)
def _world_of(name: str) -> Mapping[str, Any]:
    """Return the settings of the world that a shipped model was taught; its file never changes."""
    return shipped_world(name)


def check_world(config: RunConfig, nodes: list[PlacedNode]) -> None:
    """Raise ConfigError unless a shipped model is used in the world that it was taught."""
    data = [node.config.dataset for node in nodes if STAGES[node.kind].prepares_data]
    if all(dataset.format != ATLAS for dataset in data):
        return
    models = [STAGES[node.kind].model(node.config, node.inputs) for node in nodes]
    for name in sorted({m.name_or_path for m in models if m is not None} - {None}):
        for setting, value in _world_of(name).items():
            require(
                getattr(config.atlas, setting) == value,
                f"atlas.{setting}",
                getattr(config.atlas, setting),
                f"be {value} with model.name_or_path={name}, which was taught that world",
                "train a base of your own with experiment=atlas_world",
            )


def check_fit(node: PlacedNode, context: int) -> None:
    """Raise ConfigError unless a question, its passages and a response can fit the context."""
    stage, retrieval = STAGES[node.kind], node.config.retrieval
    shown = stage.shows_passages(node.config)
    if shown and "index" not in node.inputs and not stage.passages_optional:
        raise ConfigError(
            f"{node.name}: retrieval.share (={retrieval.share}) must be 0 without an "
            "index input; set it to 0, or give the node one."
        )
    passages = 0
    if "index" in node.inputs:
        passages = stage.result_tokens(node.config) + (retrieval.budget_tokens if shown else 0)
    response = node.config.sampling.max_new_tokens
    require(
        passages + response + 8 <= context,
        f"{node.name}: sampling.max_new_tokens",
        f"{response} tokens",
        f"leave room for a prompt: with {passages} tokens of passages it must stay "
        f"{8} below model.context (={context})",
        "lower it, retrieval.budget_tokens or search.max_turns, or choose a model with a longer "
        "context",
    )
