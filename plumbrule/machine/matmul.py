"""How fast a device multiplies large matrices: what useful work is held against.

A measurement takes well under a second, also where bfloat16 is emulated at a hundredth of float32's
rate: the size of the matrices follows the speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SMALLEST = 128
LARGEST = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices, by type of device."""
LONG_SECONDS = 0.02
"""A product that takes so long is timed; a shorter one is made larger first."""
REPEATS = 3


def measured_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """Return GFLOP/s of a square product, the best of a few."""
    size, largest = SMALLEST, LARGEST.get(device.type, LARGEST["cpu"])
    product = _product(size, device, dtype)
    product()  # the first one chooses kernels and starts threads
    while (seconds := _seconds(product)) < LONG_SECONDS and size < largest:
        size *= 2
        product = _product(size, device, dtype)
    best = min([seconds, *(_seconds(product) for _ in range(REPEATS - 1))])
    return 2.0 * size**3 / best / 1e9


def _product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    a = torch.ones(size, size, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return multiply


def _seconds(product: Callable[[], None]) -> float:
    begun = time.perf_counter()
    product()
    return max(time.perf_counter() - begun, 1e-9)
