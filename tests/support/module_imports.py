"""Which modules of the project import which, read from their source."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from places import ROOT

PACKAGES = ("plumbrule", "sft", "rlhf", "rag", "eval")


def module_of(path: Path) -> str:
    """Return the dotted name of a file under the root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}


@functools.cache
def imports(module: str, in_functions: bool = True) -> frozenset[str]:
    """Return the project's modules that one imports, for types alone too.

    Args: in_functions: whether imports inside functions count.
    """
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset(imported_by(tree, MODULES, in_functions)) - {module}


def imported_by(
    tree: ast.AST, known: Iterable[str] | Mapping[str, Path], in_functions: bool = True
) -> Iterator[str]:
    """Yield those of the known modules that a file imports."""
    names = set(known)
    for node in ast.walk(tree) if in_functions else _outside_functions(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in names or node.module in names:
                    yield whole if whole in names else node.module


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            waiting += ast.iter_child_nodes(node)


def circles(graph: Mapping[str, Iterable[str]]) -> set[frozenset[str]]:
    """Return the sets of nodes that all lead to one another (more than one node each)."""
    reached = {node: _reached_from(node, graph) for node in graph}
    return {
        circle
        for node in graph
        if len(circle := frozenset(o for o in reached[node] if node in reached[o]) | {node}) > 1
    }


def _reached_from(start: str, graph: Mapping[str, Iterable[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph.get(node, ())
    return found
