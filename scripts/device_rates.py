"""What a device can do at the most: FLOPs of a matrix product, bytes of a copy, both a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any


def matmul_rate(dtype: Any, device: str) -> float:
    """Return FLOPs per second of a large matrix product, the best of ten."""
    import torch

    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2.0 * n**3 / seconds_of(lambda: torch.mm(a, b), device, 10)


def copy_rate(device: str) -> float:
    """Return bytes read and written per second by a copy much larger than any cache."""
    import torch

    size = 2**28 if device == "cpu" else 2**32
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * size / seconds_of(lambda: target.copy_(source), device, 5)


def seconds_of(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Return the seconds of the fastest of some repeats, after one that warms up."""
    best = math.inf
    for repeat in range(repeats + 1):
        wait(device)
        begun = time.perf_counter()
        work()
        wait(device)
        if repeat:
            best = min(best, time.perf_counter() - begun)
    return best


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def device_name(device: str) -> str:
    """Return the accelerator's name, or the kind of processor."""
    import platform

    import torch

    return platform.machine() if device == "cpu" else torch.cuda.get_device_name()
