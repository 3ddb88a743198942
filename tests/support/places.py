"""Where tests find the project's files, and data that is not part of it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = Path(__file__).resolve().parent
"""On the path of the tests (pyproject.toml); a process that a test starts must be told of it."""
SHARED = ROOT.parent / "shared"
"""Data sets that are never copied into the project; tests that read them skip where it is
absent."""


def process_environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that finds the project and the tests' support."""
    path = os.pathsep.join([str(ROOT), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **more}
