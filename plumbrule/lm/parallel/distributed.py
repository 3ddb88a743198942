"""Several processes that compute one result: the few collectives that the stages need.

Every process runs the same stage and holds the same weights. Work on rows is dealt out with
`rank_indices` and put together again, in its old order, with `gather_rows`; sums are formed with
`all_reduce_sum_`. Only the main process (rank 0) writes files. In a single process all of these do
nothing, so that a stage has one code path.

Processes are started by torchrun, whose environment `start` reads: gloo on CPUs, NCCL for tensors
on GPUs (Python objects and barriers go through gloo there as well, on the CPU).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig

T = TypeVar("T")


def start(runtime: RuntimeConfig) -> None:
    """Join the process group that torchrun's environment describes; do nothing without one.

    On GPUs each process takes the device of its local rank. Calling it again does nothing. A
    process that waits in a collective for longer than `runtime.silence_minutes` ends, and
    torchrun ends the others once one has failed: no job hangs on a process that is gone or stuck.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    on_gpu = runtime.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        there = torch.cuda.device_count()
        if int(os.environ["LOCAL_RANK"]) >= there:
            raise ConfigError(
                f"runtime.processes (={os.environ.get('LOCAL_WORLD_SIZE', '?')}) must be at most "
                f"{there}, the accelerators of this machine; lower it."
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    _silence[0] = timedelta(minutes=runtime.silence_minutes)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_silence[0])


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this process is the one that writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        gather_objects(None)


def rank_indices(num_rows: int) -> range:
    """Return the row numbers of this process: every `world_size()`-th."""
    return range(rank(), num_rows, world_size())


def gather_objects(mine: T) -> list[T]:
    """Return every process's object, in order of rank; all processes get the same list."""
    if world_size() == 1:
        return [mine]
    everyones: list[Any] = [None] * world_size()
    dist.all_gather_object(everyones, mine, group=_cpu_group())
    return everyones


def gather_rows(mine: Sequence[T], num_rows: int) -> list[T]:
    """Return all rows in order, given what each process made of its `rank_indices(num_rows)`."""
    if world_size() == 1:
        return list(mine)
    parts = gather_objects(list(mine))
    return [parts[row % world_size()][row // world_size()] for row in range(num_rows)]


def all_reduce_sum_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes; one transfer per dtype and device."""
    if world_size() == 1:
        return
    kinds = sorted({(str(t.dtype), str(t.device)) for t in tensors})
    for kind in kinds:
        alike = [t for t in tensors if (str(t.dtype), str(t.device)) == kind]
        flat = torch.cat([t.reshape(-1) for t in alike])
        dist.all_reduce(flat)
        for tensor, total in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
            tensor.copy_(total.view_as(tensor))


_gloo: list[Any] = []
_silence = [timedelta(minutes=10)]


def _cpu_group() -> Any:
    """Return a group whose objects travel through the CPU: pickles don't belong on a GPU."""
    if dist.get_backend() == "gloo":
        return None
    if not _gloo:
        _gloo.append(dist.new_group(backend="gloo", timeout=_silence[0]))
    return _gloo[0]
