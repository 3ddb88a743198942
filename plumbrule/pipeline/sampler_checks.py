"""What is known of a run's samplers while planning, before hours go into the stages before."""

from __future__ import annotations

from plumbrule.machine.vllm_environment import vllm_python
from plumbrule.pipeline.execute import Planned
from plumbrule.pipeline.given_inputs import Given
from plumbrule.runtime_config import RuntimeConfig


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
        if node.config.old_logprobs == "recompute" and node.config.importance_cap is None:
            notes.append(
                f"{node.name}: ppo.sampler (={sampler}) samples with kernels that are not those of "
                "training, and nothing weighs the difference; ppo.importance_cap=2 does."
            )
    return notes
