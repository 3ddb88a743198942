"""What a node asks of a cluster."""

from __future__ import annotations

from typing import NamedTuple

from plumbrule.machine.precision import planned_device
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.memory import GIB
from plumbrule.runtime_config import RuntimeConfig


class Resources(NamedTuple):
    """Of a node. memory_bytes: None: nothing is asked for."""

    cpus: int
    gpus: float
    memory_bytes: int | None


def resources_of(config: ExecutorConfig, runtime: RuntimeConfig) -> Resources:
    """Return what `executor` asks for, and where it leaves it open what `runtime` will use."""
    cpus = config.cpus or (runtime.threads or 1) * runtime.processes
    on_gpu = planned_device(runtime.device).startswith("cuda")
    gpus = config.gpus if config.gpus is not None else float(runtime.processes if on_gpu else 0)
    memory = None if config.memory_gib is None else int(config.memory_gib * GIB)
    return Resources(cpus, gpus, memory)
