"""`ppo.sampler=vllm`: an engine in a process of its own (`plumbrule/lm/generation/vllm/`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plumbrule.lm.generation.vllm.vllm_sampler import VLLMSampler
from plumbrule.machine.vllm_environment import vllm_python
from plumbrule.runtime_config import RuntimeConfig
from rlhf.ppo.rollout.trajectory import NamedSampler


@contextmanager
def open_vllm(precision: str, runtime: RuntimeConfig) -> Iterator[NamedSampler]:
    """Yield vLLM; its process starts when it is first asked.

    Raises: ConfigError: vLLM is not installed or of another version; weights that are spread.
    """
    with VLLMSampler(vllm_python(runtime), precision, runtime) as sampler:
        yield NamedSampler(sampler.name, sampler)
