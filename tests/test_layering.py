"""The layering of ARCHITECTURE: the floor knows no stage, stages know only the floor."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"sft", "rlhf", "rag", "eval"}
NAME_STAGES = {"checks.py", "compose.py", "experiment.py", "stages.py"}
"""Of plumbrule/pipeline: all that may name a stage."""
SOURCES = sorted(p for room in ("plumbrule", *STAGES) for p in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_the_floor_and_itself(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    if path.parent == ROOT / "plumbrule" / "pipeline" and path.name in NAME_STAGES:
        return
    assert imported(path) & STAGES <= ({room} if room != "plumbrule" else set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_sampler_and_one_log_softmax(path: Path) -> None:
    """Only generation/ samples and only logprobs.py takes log-probs, so no two stages differ."""
    calls = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    }
    methods = {
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    if "generation" not in path.parts and path.name != "world.py":
        assert "generate" not in methods
    if path != ROOT / "plumbrule" / "lm" / "logprobs.py":
        assert "log_softmax" not in calls


def test_help_and_planning_import_no_torch() -> None:
    code = (
        "import sys; import plumbrule.cli.main, plumbrule.cli.verbs, plumbrule.report; "
        "print([m for m in ('torch', 'transformers', 'wandb', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
