"""What is recorded of the machine and the environment, and how a stage's process is set up.

Versions are read from package metadata, so that planning needs to import none of the packages; only
`hardware` and `prepare` import torch.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumbrule.machine import contention, cpus, openmp
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import checkpoints
from plumbrule.store.fingerprint import ROOT

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "sentence-transformers",
    "faiss-cpu",
    "faiss-gpu",
    "bm25s",
    "scikit-learn",
    "vaderSentiment",
    "numpy",
)
"""Libraries whose version may change a number."""


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the installed version of Python and of each library that may change a number."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def changed_versions(then: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return {library: (then, now)} where an artifact's versions differ from those here."""
    now = versions()
    return {
        name: (version, now.get(name, "absent"))
        for name, version in then.items()
        if now.get(name, "absent") != version
    }


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any]:
    """Return the project's commit and whether its tree differs from it; empty outside git.

    Also empty where the package is installed inside a repository of the user's, which does not
    track it.
    """
    try:
        _git("ls-files", "--error-unmatch", "plumbrule/machine/environment.py")
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
    )
    return done.stdout.strip()


def num_threads(runtime: RuntimeConfig) -> int:
    """Return the threads of each of a stage's processes on this machine.

    `runtime.threads` where it is set, though no more than can run at a time; else the user's
    OMP_NUM_THREADS; else the cores that this command was given, shared among the processes.
    """
    if runtime.threads is not None:
        return min(runtime.threads, max(1, cpus.most() // runtime.processes))
    return openmp.chosen_threads() or max(1, cpus.available() // runtime.processes)


def threads_line(runtime: RuntimeConfig) -> str | None:
    """Return what the user is told where `runtime.threads` is more than there is, else None."""
    used = num_threads(runtime)
    if runtime.threads is None or runtime.threads == used:
        return None
    shared = f", shared among {runtime.processes} processes" if runtime.processes > 1 else ""
    return (
        f"runtime.threads (={runtime.threads}) is more than this command can run at a time "
        f"({cpus.most()} by affinity, CPU quota and Slurm{shared}); {used} will be used."
    )


def compared() -> dict[str, Any]:
    """Return what two machines must share for their numbers to agree bit for bit. No torch.

    `threads` is that of the last `prepare`, 0 before.
    """
    return {
        "processor": cpus.processor(),
        "instructions": " ".join(cpus.instructions()),
        "threads": _prepared["threads"],
        "torch": versions().get("torch", "absent"),
    }


def moved(checkpoint: Path, runtime: RuntimeConfig) -> str | None:
    """Return how this machine differs from the one that wrote a checkpoint; None: in nothing known.

    A checkpoint that does not say where it was written counts as of this machine.
    """
    then = checkpoints.written_on(checkpoint)
    now = {**compared(), "threads": num_threads(runtime)}
    changes = [
        f"{name} {then[name]!s}, here {value!s}"
        for name, value in now.items()
        if name in then and then[name] != value
    ]
    return "; ".join(changes) or None


def hardware(runtime: RuntimeConfig) -> dict[str, Any]:
    """Return what makes a run's seconds and last digits comparable; never a host name.

    Processor, instruction sets that matter, cores, threads of a stage's process, memory,
    accelerators, and the matrix-product rates (GFLOP/s) of the device that stages compute on.
    """
    import torch

    from plumbrule.machine.matmul_rates import matmul_gflops

    there = torch.cuda.is_available()
    device = torch.device("cuda" if there and runtime.device != "cpu" else "cpu")
    about: dict[str, Any] = {
        "processor": cpus.processor(),
        "instructions": " ".join(cpus.instructions()),
        "cores": os.cpu_count(),
        "threads": num_threads(runtime),
    }
    with contextlib.suppress(ValueError, OSError, AttributeError):  # not every system says
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        about["memory_gib"] = round(pages / 2**30, 1)
    if there:
        about["accelerators"] = [
            torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())
        ]
    about |= {f"{name}_gflops": rate for name, rate in matmul_gflops(device).items()}
    return about


_prepared = {"threads": 0}


def prepare(runtime: RuntimeConfig) -> None:
    """Set this process up for a stage: threads, deterministic kernels, quiet libraries."""
    threads = num_threads(runtime)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for libraries that are loaded from here on
    import torch

    torch.set_num_threads(threads)
    if threads > 1 and openmp.is_ours(os.environ):
        contention.watch()
    _prepared["threads"] = threads
    checkpoints.MACHINE.update(compared())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # As `use_deterministic_algorithms(True, warn_only=True)`, which first imports the compiler.
    torch.set_deterministic_debug_mode("warn")
    # Or else every new tensor is filled with NaN first, so that reads of unset memory show: half of
    # the time of a small model's step, and no part of getting the same numbers twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
