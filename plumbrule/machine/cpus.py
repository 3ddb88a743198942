"""The CPUs of this machine: which model, what it computes natively, how many are ours. No torch.

How many threads a process shall use is the least of what it may run on (affinity), what it may use
(the CPU quota of its cgroup and of those above it, versions 1 and 2) and what Slurm gave its task.
Two hardware threads of one core count as one: they share the units that multiply matrices. A quota
is rounded down, since one thread that is held back holds up all others of its process.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

SYSTEM = Path("/")
"""Under which proc/ and sys/ are read; either may be absent."""
INSTRUCTIONS = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "asimd", "sve", "bf16"),
)
"""Instruction sets that decide which kernels torch's libraries take."""


def processor(system: Path = SYSTEM) -> str:
    """Return the name of the CPU model, or of the architecture where the system does not say."""
    about = _cpuinfo(system)
    return about.get("model name") or about.get("Model") or platform.machine()


def instructions(system: Path = SYSTEM) -> list[str]:
    """Return those of `INSTRUCTIONS` that the CPU has; [] where the system does not say."""
    about = _cpuinfo(system)
    flags = set((about.get("flags") or about.get("Features") or "").split())
    return [name for name in INSTRUCTIONS if name in flags]


def available(environment: Mapping[str, str] = os.environ, system: Path = SYSTEM) -> int:
    """Return how many threads this process can use to advantage, at least 1."""
    return _least(num_cores(_allowed(), system), environment, system)


def most(environment: Mapping[str, str] = os.environ, system: Path = SYSTEM) -> int:
    """Return how many threads can run at a time, those of one core counted apart, at least 1."""
    return _least(len(_allowed()), environment, system)


def _least(num_cpus: int, environment: Mapping[str, str], system: Path) -> int:
    """Return the least of `num_cpus`, the cgroups' quotas and what Slurm gave the task."""
    limits: list[float] = [num_cpus, *_quotas(system)]
    given = environment.get("SLURM_CPUS_PER_TASK", "")
    if given.isdecimal() and int(given) > 0:
        limits.append(int(given))
    return max(1, int(min(limits)))


def num_cores(cpus: set[int], system: Path = SYSTEM) -> int:
    """Return on how many different cores the CPUs of these numbers lie."""
    return len({_siblings(cpu, system) for cpu in cpus})


def _allowed() -> set[int]:
    """Return the numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: int, system: Path) -> str:
    """Return a name of the core that a CPU belongs to."""
    topology = system / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return _read(topology) or str(cpu)


def _quotas(system: Path) -> Iterator[float]:
    """Yield the CPU quotas, in CPUs, of this process's cgroups and of all those above them."""
    for root, mount, version in _cgroup_mounts(system):
        for group in _cgroups(system, version):
            below = PurePosixPath(group)
            inside = below.relative_to(root) if below.is_relative_to(root) else PurePosixPath()
            folder = system / mount.lstrip("/")
            for depth in range(len(inside.parts) + 1):
                quota = _quota(folder.joinpath(*inside.parts[:depth]))
                if quota is not None:
                    yield quota


def _cgroup_mounts(system: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (root in the hierarchy, mount point, version) of hierarchies that may limit CPUs."""
    for line in _read(system / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, about = left.split(), right.split()
        if len(fields) < 5 or not about:
            continue
        if about[0] == "cgroup2":
            yield fields[3], fields[4], 2
        elif about[0] == "cgroup" and "cpu" in about[-1].split(","):
            yield fields[3], fields[4], 1


def _cgroups(system: Path, version: int) -> Iterator[str]:
    """Yield the paths of this process's cgroups in the hierarchy that holds the CPU controller."""
    for line in _read(system / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (version == 2 and number == "0") or (version == 1 and "cpu" in controllers.split(",")):
            yield path


def _quota(folder: Path) -> float | None:
    """Return the CPUs that one cgroup may use; None: as many as there are."""
    both = _read(folder / "cpu.max").split()  # version 2
    if len(both) != 2:  # version 1
        both = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(number) for number in both)
    except ValueError:  # "max", or no limit can be set here
        return None
    return quota / period if quota > 0 and period > 0 else None


@lru_cache(maxsize=8)
def _cpuinfo(system: Path) -> dict[str, str]:
    """Return what the system says of its first CPU; {} where it says nothing."""
    first = _read(system / "proc/cpuinfo").partition("\n\n")[0]
    pairs = (re.split(r"\s*:\s*", line, maxsplit=1) for line in first.splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}


def _read(path: Path) -> str:
    """Return a file's text, "" where it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
