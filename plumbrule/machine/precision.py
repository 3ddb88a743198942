"""What `precision: auto` becomes, and whether bfloat16 is native or emulated. No torch.

bfloat16 pays only where a device multiplies it natively; elsewhere it is emulated, and a step takes
several times as long as in float32. `auto` is resolved while a run is planned, so that what it
became is hashed, recorded and shown, and a stage meets float32 or bfloat16 only.

Native is: a CPU with avx512_bf16 or amx_bf16; an NVIDIA GPU of compute capability 8.0 or higher.
Whether there is a GPU that torch can use is known to `accelerators.py`; `nvidia-smi` is asked for
the capability alone (of the GPUs in CUDA_VISIBLE_DEVICES; of several, the lowest counts). What is
not known to be native counts as emulated: float32 is right everywhere.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from plumbrule.machine import cpus
from plumbrule.machine.accelerators import num_accelerators

AUTO = "auto"
NATIVE_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
NATIVE_CAPABILITY = (8, 0)
ANSWER_SECONDS = 20.0
"""An nvidia-smi that is silent for so long has no answer."""


class Native(NamedTuple):
    """Whether a device multiplies bfloat16 natively, and the reason as a clause."""

    bfloat16: bool
    why: str

    @property
    def precision(self) -> str:
        """What `auto` becomes."""
        return "bfloat16" if self.bfloat16 else "float32"


def native(device: str) -> Native:
    """Return whether the device that `runtime.device` names multiplies bfloat16 natively."""
    if planned_device(device) == "cpu":
        found = [name for name in NATIVE_INSTRUCTIONS if name in cpus.instructions()]
        if found:
            return Native(True, f"this CPU has {' and '.join(found)}")
        return Native(False, f"this CPU has neither {' nor '.join(NATIVE_INSTRUCTIONS)}")
    capability = cuda_capability(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if capability is None:
        return Native(False, "nvidia-smi does not tell the GPU's compute capability")
    shown = ".".join(str(part) for part in capability)
    return Native(capability >= NATIVE_CAPABILITY, f"the GPU has compute capability {shown}")


def planned_device(device: str) -> str:
    """Return cpu or cuda: what a stage will resolve `runtime.device` to."""
    if device != AUTO:
        return device.partition(":")[0]
    return "cuda" if num_accelerators() > 0 else "cpu"


@lru_cache(maxsize=8)
def cuda_capability(visible: str | None) -> tuple[int, int] | None:
    """Return the lowest compute capability of the GPUs that are visible, None if that is not known.

    visible: the value of CUDA_VISIBLE_DEVICES; None: all of them are.
    """
    if visible is not None and visible.strip() in ("", "-1"):
        return None
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            [*command, *(["-i", visible.replace(" ", "")] if visible else [])],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.findall(r"^\s*(\d+)\.(\d+)\s*$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        return None
    return min((int(major), int(minor)) for major, minor in found)


def resolved(config: Any, device: str) -> Any:
    """Return a stage's config with each `precision` that is auto replaced by what it is here."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "precision" and value == AUTO:
            changes[field.name] = native(device).precision
        elif dataclasses.is_dataclass(value):
            inner = resolved(value, device)
            if inner is not value:
                changes[field.name] = inner
    return dataclasses.replace(config, **changes) if changes else config


def plan_line(by_node: Mapping[str, str], device: str, asked_for_auto: bool) -> str | None:
    """Return the plan's line on precision, None where no planned node has one.

    Args: by_node: node -> float32 or bfloat16. asked_for_auto: whether any was auto.
    """
    if not by_node:
        return None
    parts = [
        f"{precision} ({', '.join(node for node, p in by_node.items() if p == precision)})"
        for precision in dict.fromkeys(by_node.values())
    ]
    here = native(device) if asked_for_auto else None
    auto = f"; auto is {here.precision} here: {here.why}" if here is not None else ""
    return f"precision: {', '.join(parts)}{auto}"


def emulation_line(settings: Sequence[str], device: str, gflops: Mapping[str, float]) -> str:
    """Return what is said before stages compute in a bfloat16 that is emulated here.

    Args: settings: dotted names of those that ask for it. gflops: precision -> matrix-product rate.
    """
    ratio = gflops["float32"] / gflops["bfloat16"]
    return (
        f"{', '.join(settings)} (=bfloat16) will be emulated: {native(device).why}. A matrix "
        f"product takes {ratio:.2g} times as long as in float32 here ({gflops['bfloat16']:.2g} "
        f"against {gflops['float32']:.3g} GFLOP/s); set {settings[0]}=auto or float32."
    )


def asks_for_auto(settings: Any) -> bool:
    """Return whether any `precision` in nested settings is auto, or varies over auto."""
    if not isinstance(settings, Mapping):
        return False
    return any(
        AUTO in (value if isinstance(value, list) else [value])
        if str(name).rpartition(".")[2] == "precision"
        else asks_for_auto(value)
        for name, value in settings.items()
    )
