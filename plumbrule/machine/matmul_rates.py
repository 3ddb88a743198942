"""How fast this machine multiplies matrices, in float32 and in bfloat16: what its seconds mean.

Measured once per machine and kept in `$XDG_CACHE_HOME/plumbrule/matmul_rates.json` (else under
`~/.cache`), by CPU model, instruction sets, threads, torch's version and device. Where that file
can't be written the rates are measured once per command.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from plumbrule.machine import cpus
from plumbrule.machine.matmul import measured_gflops
from plumbrule.store.fingerprint import digest
from plumbrule.store.json_files import read_json, write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_measured: dict[str, dict[str, float]] = {}

FILE = "matmul_rates.json"
"""In the cache folder: key -> precision -> GFLOP/s."""


def matmul_gflops(device: torch.device) -> dict[str, float]:
    """Return GFLOP/s of a large matrix product by precision, with this process's threads."""
    key = _key(device)
    if key not in _measured:
        _measured[key] = _kept(key) or _measure_and_keep(key, device)
    return _measured[key]


def cache_folder() -> Path | None:
    """Return the user's cache folder of this project; None where no home is known."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:  # HOME unset, and the user database does not know the user
        return None
    return home / "plumbrule"


def _key(device: torch.device) -> str:
    """Return a name for what the rates depend on."""
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    threads = torch.get_num_threads()
    return digest([cpus.processor(), cpus.instructions(), threads, torch.__version__, on])


def _kept(key: str) -> dict[str, float] | None:
    """Return the rates that were kept, None where there are none that can be read."""
    folder = cache_folder()
    try:
        found = read_json(folder / FILE)[key] if folder else {}
        rates = {name: float(found[name]) for name in DTYPES}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return rates if all(0 < rate < math.inf for rate in rates.values()) else None


def _measure_and_keep(key: str, device: torch.device) -> dict[str, float]:
    rates = {name: round(measured_gflops(device, dtype), 3) for name, dtype in DTYPES.items()}
    folder = cache_folder()
    if folder is None:
        return rates
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = read_json(path) if path.is_file() else {}
        write_json(path, {**(others if isinstance(others, dict) else {}), key: rates})
    except (OSError, ValueError, RecursionError):
        pass  # a home that can't be written: measured again by the next command
    return rates
