"""What is known of a run's samplers while planning, before hours go into the stages before."""

from __future__ import annotations

import json
from pathlib import Path

from plumbrule.errors import ConfigError
from plumbrule.lm.config import ModelConfig
from plumbrule.machine import precision
from plumbrule.machine.vllm_environment import CPU_HEAD_SIZES, vllm_python
from plumbrule.pipeline.execute import Planned
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.graph import Node
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.packaged_files import located


def check_samplers(plan: list[Planned], runtime: RuntimeConfig) -> list[str]:
    """Return what is worth knowing of the samplers of nodes to be built, as sentences.

    Raises: ConfigError: vLLM is asked for and is not there, or can't be sent the weights.
    """
    notes = []
    for planned in plan:
        node = planned.node
        if isinstance(node.config, Given) or planned.state not in ("build", "resume"):
            continue
        if node.kind != "ppo" or node.config.sampler == "own":
            continue
        sampler = node.config.sampler
        if sampler == "vllm":
            vllm_python(runtime)
            if precision.planned_device(runtime.sampler_device or runtime.device) == "cpu":
                check_heads(node, plan)
        if node.config.old_logprobs == "recompute" and node.config.importance_cap is None:
            notes.append(
                f"{node.name}: ppo.sampler (={sampler}) samples with kernels that are not those of "
                "training, and nothing weighs the difference; ppo.importance_cap=2 does."
            )
    return notes


def check_heads(node: Node, plan: list[Planned]) -> None:
    """Raise ConfigError where vLLM is known to have no kernel for the policy's attention heads."""
    model = _model_of(node, {planned.node.name: planned.node for planned in plan})
    size = None if model is None else head_size(model)
    if size is not None and size not in CPU_HEAD_SIZES:
        named = (
            "of this shape" if model is None or model.name_or_path is None else model.name_or_path
        )
        raise ConfigError(
            f"ppo.sampler (=vllm) must be own on a CPU for a model {named}: it has heads of {size} "
            f"numbers, and vLLM has kernels for {', '.join(map(str, CPU_HEAD_SIZES))}; choose "
            "another model, or ppo.sampler=own."
        )


def _model_of(node: Node, by_name: dict[str, Node]) -> ModelConfig | None:
    """Return the model that a policy began as, None where no node of the plan says."""
    while node.name in by_name:
        for slot in ("policy", "base"):
            if slot in node.inputs and node.inputs[slot] in by_name:
                node = by_name[node.inputs[slot]]
                break
        else:
            return node.config.model if node.kind in ("base", "sft") else None
        if isinstance(node.config, Given):
            break
    return None


def head_size(model: ModelConfig) -> int | None:
    """Return the numbers in each attention head of a model, None where no file says."""
    if model.name_or_path is None:
        return model.hidden_size // model.num_heads
    path = Path(located(model.name_or_path)) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
