"""Whether the accelerators that a run asks for are there, known without importing torch.

The driver's management library (NVML) counts them in milliseconds and leaves no context behind.
Where it is absent there may still be devices of another maker (`/dev/kfd`, `/dev/dxg`); only then
torch, seconds to import, is asked.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from pathlib import Path

from plumbrule.config import require
from plumbrule.runtime_config import RuntimeConfig

NVML = "libnvidia-ml.so.1"
OTHERS = ("/dev/kfd", "/dev/dxg", "/dev/nvidiactl", "/dev/nvhost-gpu")
"""Devices that NVML does not know, or not everywhere."""


def num_accelerators() -> int:
    """Return how many CUDA (or ROCm) devices torch can use here."""
    try:
        if importlib.metadata.version("torch").endswith("+cpu"):
            return 0
    except importlib.metadata.PackageNotFoundError:
        return 0
    counted = _count_by_nvml()
    if counted is None and not any(Path(name).exists() for name in OTHERS):
        return 0
    if not counted or "MIG" in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        import torch

        return torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return counted
    return _count_visible(visible, counted)


def _count_by_nvml() -> int | None:
    """Return how many devices the driver has; None where there is no driver."""
    try:
        library = ctypes.CDLL(NVML)
        if library.nvmlInit_v2():
            return None
        number = ctypes.c_uint()
        failed = library.nvmlDeviceGetCount_v2(ctypes.byref(number))
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return None if failed else number.value


def _count_visible(visible: str, counted: int) -> int:
    """Return how many of `counted` devices are visible: CUDA stops at the first it lacks."""
    number = 0
    for name in visible.split(","):
        name = name.strip()
        known = name.startswith("GPU-") or (name.isdecimal() and int(name) < counted)
        if not known:
            break
        number += 1
    return number


def require_device(runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless this machine has the device, one for each process."""
    if not runtime.device.startswith("cuda"):
        return
    found = num_accelerators()
    needed = max(runtime.processes, int(runtime.device.partition(":")[2] or 0) + 1)
    require(
        found >= needed,
        "runtime.device",
        runtime.device,
        f"be a device of this machine, which has {found} of the {needed} that are needed",
        "use runtime=cpu, or runtime.device=auto, which takes what is there",
    )


class _MemoryInfo(ctypes.Structure):
    """NVML's nvmlMemory_t, bytes."""

    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def device_bytes(device: str) -> int | None:
    """Return the memory of the device that `runtime.device` names; None where it is not known.

    Of several accelerators the smallest; of the CPU that of the machine. Those that are not there,
    or are not NVIDIA's, are not known.
    """
    if device == "cpu" or (device == "auto" and num_accelerators() == 0):
        return _machine_bytes()
    sizes = _sizes_by_nvml()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and sizes:
        places = [int(name) for name in visible.split(",") if name.strip().isdecimal()]
        sizes = [sizes[place] for place in places if place < len(sizes)]
    number = device.partition(":")[2]
    if number and int(number) < len(sizes):
        return sizes[int(number)]
    return min(sizes, default=None)


def _sizes_by_nvml() -> list[int]:
    """Return the memory of each device that the driver has, bytes."""
    try:
        library = ctypes.CDLL(NVML)
        if library.nvmlInit_v2():
            return []
        number = ctypes.c_uint()
        library.nvmlDeviceGetCount_v2(ctypes.byref(number))
        found = []
        for place in range(number.value):
            handle, about = ctypes.c_void_p(), _MemoryInfo()
            library.nvmlDeviceGetHandleByIndex_v2(place, ctypes.byref(handle))
            if not library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(about)):
                found.append(int(about.total))
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return []
    return found


def _machine_bytes() -> int | None:
    """Return the memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
