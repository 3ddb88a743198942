"""What may import what: stages know plumbrule and themselves, plumbrule knows no stage."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from module_imports import MODULES, circles, imported_by, imports
from places import ROOT

STAGES = {"sft", "rlhf", "rag", "eval"}
NAME_STAGES = {f"plumbrule.pipeline.{name}" for name in ("stages", "experiment", "compose")}
"""All of plumbrule that may import a stage (its config), or name its modules in a string."""
RUNS_STAGES = {"pipeline", "cli", "notebook", "tracking"}
"""Parts of plumbrule that carry stages out; no stage imports them."""
LAYERS = """
errors surroundings overrides timing rounding stage_kind grounding
store
config
registry data runtime_config
protocols machine
tracking inputs
statistics atlas
lm
report
results
papers
pipeline
bundles
cli
notebook __main__
"""
"""Parts of plumbrule: each imports those on lines above its own, and its own modules."""
MOST_MODULES = 20
"""In a folder, without its __init__."""
SOURCES = sorted(MODULES.values())


def part_of(module: str) -> str:
    """Return the sub-package or the top-level module of plumbrule that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def test_a_stage_imports_plumbrule_and_itself_alone() -> None:
    wrong = [
        (module, found)
        for module in MODULES
        if (stage := module.split(".")[0]) in STAGES
        for found in imports(module)
        if found.split(".")[0] not in (stage, "plumbrule")
    ]
    assert not wrong


def test_no_stage_knows_what_runs_it() -> None:
    wrong = [
        (module, found)
        for module in MODULES
        if module.split(".")[0] in STAGES
        for found in imports(module)
        if found.startswith("plumbrule.") and part_of(found) in RUNS_STAGES
    ]
    assert not wrong


def test_only_the_table_of_stages_and_the_config_name_stages() -> None:
    """Beside them, the command line starts three tools of stages by name: replay, label, store."""
    named = re.compile(rf"({'|'.join(STAGES)})\.\w+(\.\w+)*(:\w+)?")
    for module, path in MODULES.items():
        if not module.startswith("plumbrule") or module in NAME_STAGES:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [found for found in imports(module) if found.split(".")[0] in STAGES], module
        strings = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and named.fullmatch(node.value)
            and node.value.split(":")[0] in MODULES
        }
        allowed = {"rlhf.ppo.replay", "rlhf.feedback.people.server", "rag.store.commands"}
        assert strings <= (allowed if part_of(module) == "cli" else set()), module


def test_each_part_of_plumbrule_imports_the_layers_below_it() -> None:
    level = {part: n for n, line in enumerate(LAYERS.split("\n")) for part in line.split()}
    for module in MODULES:
        if module.split(".")[0] != "plumbrule" or module == "plumbrule":
            continue
        own = part_of(module)
        assert own in level, f"{own} must stand in LAYERS; add it where its imports allow"
        for found in imports(module):
            part = part_of(found)
            if found.startswith("plumbrule.") and part != own:
                assert level[part] < level[own], f"{module} imports {found} of a higher layer"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imports(module, in_functions=False) for module in MODULES}
    assert circles(graph) == set(), "imports for types count: move the type to a module below"


def test_a_circle_is_found_where_modules_lead_to_each_other() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}
    assert circles(graph) == {frozenset("bc")}
    code = "from x import y\nif TYPE_CHECKING:\n    import x.z\ndef f():\n    from w import v"
    known = {"x.y", "x.z", "w"}
    assert set(imported_by(ast.parse(code), known)) == known
    assert set(imported_by(ast.parse(code), known, in_functions=False)) == {"x.y", "x.z"}


def test_what_tests_and_scripts_import_is_there_also_in_code_that_they_start() -> None:
    """An editable install may find a module that was moved away in another checkout."""
    made_up = {
        ROOT / "tests" / "plumbrule" / "store" / "test_fingerprint.py"
    }  # projects in tmp_path
    line = re.compile(rf"from ((?:plumbrule|{'|'.join(STAGES)})[\w.]*) import (\w+)")
    for folder in ("tests", "scripts"):
        for path in sorted({*(ROOT / folder).rglob("*.py")} - made_up):
            for module, name in line.findall(path.read_text(encoding="utf-8")):
                assert module in MODULES, f"{path}: {module}"
                known = f"{module}.{name}" in MODULES
                assert known or name in MODULES[module].read_text(encoding="utf-8"), (path, name)


def test_a_folder_holds_no_more_modules_than_one_can_look_through() -> None:
    sizes = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {folder: n for folder, n in sizes.items() if n > MOST_MODULES} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_sampler_and_one_log_softmax(path: Path) -> None:
    """Only generation/ samples and only logprobs.py takes log-probs, so no two stages differ."""
    calls = [
        node.func
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    methods = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    functions = {call.id for call in calls if isinstance(call, ast.Name)}
    if "generation" not in path.parts and path.name != "world.py":
        assert "generate" not in methods
    if path != ROOT / "plumbrule" / "lm" / "logprobs.py":
        assert "log_softmax" not in methods | functions


def test_help_and_planning_import_no_torch() -> None:
    code = (
        "import sys; import plumbrule.cli.main, plumbrule.cli.verbs, plumbrule.report; "
        "print([m for m in ('torch', 'transformers', 'wandb', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
