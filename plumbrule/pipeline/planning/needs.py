"""What a plan needs: what will be downloaded, the memory of each stage that trains, and a recipe.

Told while planning, so that a command that can't fit is changed before it has run for an hour.
Sizes come from the model's files where they are here, else from its file of conf/model
(`plumbrule/lm/sizes/shapes.py`); where neither knows them nothing is said. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plumbrule.lm.config import ModelConfig
from plumbrule.lm.sizes.memory_plan import GIB, BatchShape, Memory, ppo_memory, training_memory
from plumbrule.lm.sizes.shapes import Shape, shape_of
from plumbrule.machine.accelerators import device_bytes
from plumbrule.machine.precision import planned_device
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.plan import Lookups, Planned
from plumbrule.pipeline.planning.recipes import Advice, advise, recipe_of_size
from plumbrule.pipeline.planning.revisions import UNKNOWN
from plumbrule.store.hub import folder_here, hub_data, parameters_on_hub, size_on_hub
from plumbrule.store.input_names import is_of_slot
from plumbrule.store.packaged_files import located
from plumbrule.store.source_files import is_hub_data

TRAINING = ("sft", "rm", "dpo", "ppo")
"""Kinds whose memory is told."""
WORTH_TELLING = 3 * GIB
"""Memory up to which nothing is said: it is to be had anywhere."""


class Need(NamedTuple):
    """Of a node. kind: of its stage."""

    node: str
    kind: str
    memory: Memory


def describe_needs(
    config: RunConfig, plan: Sequence[Planned], conf: Path, lookups: Lookups | None = None
) -> list[str]:
    """Return the lines of a plan on recipe, downloads and memory; none where nothing is built.

    Args: conf: the folder of Hydra's groups. lookups: of plans that are made together.
    """
    todo = [planned for planned in plan if planned.state in ("build", "resume")]
    if not todo:
        return []
    found = downloads(config.model, todo)
    if not starts_from_model(plan):
        return found
    model = config.model
    shape: Shape | None = (lookups or Lookups()).once(
        ("shape", repr(model)), lambda: shape_of(model, model_folder(model))
    )
    parameters = None if shape is None else shape.parameters
    if shape is None and model.name_or_path and model.revision:
        parameters = parameters_on_hub(model.name_or_path, model.revision)
    advice = advise(config.recipe, parameters, conf)
    lines = [] if advice is None else [advice.text]
    if shape is None:
        return [*lines, *found]
    needs = memory_needs(config, todo, shape)
    return [*lines, *found, *memory_lines(config, needs, shape, conf, advice)]


def starts_from_model(plan: Sequence[Planned]) -> bool:
    """Return whether the run's policies come from the configured model, and from no other."""
    made = [p.node for p in plan if p.node.kind == "base" and not isinstance(p.node.config, Given)]
    loaded = [
        p.node
        for p in plan
        if p.node.kind == "sft"
        and not isinstance(p.node.config, Given)
        and "base" not in p.node.inputs
    ]
    return bool(made or loaded)


def model_folder(model: ModelConfig) -> Path | None:
    """Return where a configured model's files lie here; None: nowhere, or it is from scratch."""
    if model.name_or_path is None:
        return None
    folder = Path(located(model.name_or_path))
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache  # no torch

    found = try_to_load_from_cache(model.name_or_path, "config.json", revision=model.revision)
    if not isinstance(found, str):
        return None
    here = Path(found).parent
    return here if any(here.glob("*.safetensors")) else None


def downloads(model: ModelConfig, todo: Sequence[Planned]) -> list[str]:
    """Return a line on what nodes to be built will fetch from the hub, with sizes if known."""
    wanted: dict[str, float | None] = {}
    loads = any(p.node.kind in ("base", "sft") and not p.node.inputs.get("base") for p in todo)
    name = model.name_or_path
    if loads and name is not None and model.revision is not None and model_folder(model) is None:
        size = size_on_hub(name, model.revision) or model.shape.download_gb * 1e9 or None
        wanted[f"model {name} at {_commit(model.revision)}"] = size
    for planned in todo:
        dataset = getattr(planned.node.config, "dataset", None)
        if dataset is None or not is_hub_data(dataset.path):
            continue
        data = hub_data(dataset.path)
        if folder_here(data) is None:
            size = size_on_hub(data.name, data.revision, data.folder, "dataset")
            wanted[f"data set {data.name} at {_commit(data.revision)}"] = size
    told = [
        f"{what} ({size / 1e9:.2g} GB)" if size else f"{what} (size not known)"
        for what, size in wanted.items()
    ]
    return [f"downloads from huggingface.co: {', '.join(told)}"] if told else []


def _commit(revision: str) -> str:
    return "a commit that is not known here" if revision == UNKNOWN else revision[:8]


def memory_needs(config: RunConfig, todo: Sequence[Planned], shape: Shape) -> list[Need]:
    """Return what each node that trains takes, rows as long as the context."""
    runtime = config.runtime
    rows = BatchShape(runtime.micro_batch_size, config.model.context)
    found = []
    for planned in todo:
        node, own = planned.node, planned.node.config
        if node.kind not in TRAINING or isinstance(own, Given):
            continue
        most = min(rows.tokens, getattr(own, "max_tokens", None) or rows.tokens)
        if node.kind == "ppo":
            sharded = runtime.sharding == "fsdp"
            memory = ppo_memory(
                shape,
                rows,
                BatchShape(min(own.sampling.batch_size, own.batch_size), rows.tokens),
                own.precision,
                rank=own.adapter.rank,
                unfrozen_layers=own.unfrozen_layers,
                value_trunk=own.value_trunk if own.has_value_model else "",
                num_reward_models=sum(is_of_slot(slot, "rm") for slot in node.inputs),
                averaged=own.ema_decay is not None,
                checkpointing=runtime.gradient_checkpointing,
                processes=runtime.processes * runtime.nodes if sharded else 1,
            )
        else:
            memory = training_memory(
                shape,
                rows._replace(tokens=most),
                own.precision,
                rank=own.adapter.rank,
                checkpointing=runtime.gradient_checkpointing,
            )
        found.append(Need(node.name, node.kind, memory))
    return found


def memory_lines(
    config: RunConfig, needs: Sequence[Need], shape: Shape, conf: Path, advice: Advice | None
) -> list[str]:
    """Return a line on the memory of each stage, and one where it is more than the device has."""
    largest = max((need.memory.total for need in needs), default=0.0)
    if largest < WORTH_TELLING:
        return []
    by_kind: dict[str, Memory] = {}
    for need in needs:
        by_kind[need.kind] = max(by_kind.get(need.kind, need.memory), need.memory, key=_total)
    told = [
        f"{kind} {_gib(memory.total)} (weights {_gib(memory.weights)})"
        for kind, memory in by_kind.items()
    ]
    runtime = config.runtime
    lines = [
        f"memory, GiB, for {runtime.micro_batch_size} rows of {config.model.context} tokens: "
        f"{', '.join(told)}; shorter rows take less"
    ]
    there, what = device_bytes(runtime.device), "this device has"
    if planned_device(runtime.device) == "cpu":
        what = "this machine has"
    if there is None and config.recipe.device_gb is not None:
        there, what = int(config.recipe.device_gb * 1e9), f"recipe {config.recipe.name} is for"
    if there is not None and largest > there:
        smaller = recipe_of_size(shape.parameters, conf, there / 1e9)
        fix = "" if smaller in (None, config.recipe.name) else f"add recipe={smaller}, or "
        if advice is not None and advice.warns:
            fix = ""
        lines.append(
            f"warning: {what} {_gib(there)} GiB, less than that: {fix}lower "
            "runtime.micro_batch_size or model.context"
        )
    return lines


def _total(memory: Memory) -> float:
    return memory.total


def _gib(number: float) -> str:
    return f"{number / GIB:.3g}" if number >= GIB else f"{number / GIB:.2g}"
