"""What is recorded of the machine and the environment, and how a stage's process is set up.

Versions are read from package metadata, so that planning needs to import none of the packages.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from plumbrule.config import RuntimeConfig
from plumbrule.fingerprint import ROOT

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
    """Return the project's commit and whether its tree differs from it; empty outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory and accelerators; never a host name."""
    about: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count()}
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    about["memory_gib"] = round(pages / 2**30, 1)
    import torch

    if torch.cuda.is_available():
        about["accelerators"] = [
            torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())
        ]
    return about


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def prepare(runtime: RuntimeConfig) -> None:
    """Set this process up for a stage: threads, deterministic kernels, quiet libraries."""
    import torch

    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Or else every new tensor is filled with NaN first, so that reads of unset memory show: half of
    # the time of a small model's step, and no part of getting the same numbers twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
