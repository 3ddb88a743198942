"""Where tests find the project's files, and data that is not part of it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = Path(__file__).resolve().parent
"""On the path of the tests (pyproject.toml); a process that a test starts must be told of it."""
SHARED = ROOT.parent / "shared"
"""Data sets that are never copied into the project; tests that read them skip where it is
absent."""
