"""Scripts: what one imports of another is there. Most of them no test runs."""

from __future__ import annotations

import ast

from places import ROOT

TREES = {
    path.stem: ast.parse(path.read_text(encoding="utf-8"))
    for path in (ROOT / "scripts").glob("*.py")
}


def names_in(tree: ast.Module) -> set[str]:
    """Return what a module defines or imports at its top."""
    found: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                found |= {alias.asname or alias.name for alias in names}
            case ast.Assign() | ast.AnnAssign():
                found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return found


def test_what_a_script_imports_of_another_is_there() -> None:
    wanted = [
        (script, node.module, alias.name)
        for script, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in TREES
        for alias in node.names
    ]
    assert ("bench_decode", "ppo_workload", "SHAPE") in wanted
    assert [one for one in wanted if one[2] not in names_in(TREES[one[1]])] == []
