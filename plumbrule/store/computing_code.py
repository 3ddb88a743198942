"""What counts of a source file: the statements that can change a result, and what they import.

Docstrings and strings under fields don't, nor what stands under `if TYPE_CHECKING:`, which never
runs, nor protocols, which say what others must have. Two kinds of modules state more than they
compute:

- In a `config.py` or `*_config.py`, fields are no code, since their values are hashed, nor are
  functions and methods that return None, which check, nor a `StageKind(...)`, which says where a
  stage stands in the graph. Properties and other functions are code. Imports and private functions
  that only checks and declarations use are left out with them; what a field's type names stays
  imported, as its properties may compute.
- In a module that says `HASHED_BY_NAME = True`, a function that a decorator `register(...)` enters
  into a table is no code of the module: whoever chooses it by name carries its digest
  (`registered_digest`) in the config. What it imports is code.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple


class ComputingCode(NamedTuple):
    """What counts of a source file."""

    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    """Of each import: level (0: absolute), module, names taken from it."""
    digest: str
    """16 hex digits of the syntax tree of what counts."""


def is_config(path: Path) -> bool:
    """Return whether a file is a module of settings, by its name."""
    return path.name.endswith("config.py")


@lru_cache(maxsize=1024)
def computing_code(text: str, of_settings: bool) -> ComputingCode:
    """Return what counts of a source text; kept by text, so an edited file is parsed anew."""
    tree = ast.parse(text)
    by_name = any(_is_marked(statement) for statement in tree.body)
    _leave_out(tree, lambda s: _is_text(s) or _is_for_types(s) or _is_protocol(s))
    if of_settings:
        tree.body = _without_statements_of_settings(tree.body)
    imports = tuple(_imports(tree))
    if by_name:
        _leave_out(tree, _is_registered)
    return ComputingCode(imports, _short_hash(ast.dump(tree)))


@lru_cache(maxsize=256)
def registered_digest(function: Callable[..., Any]) -> str:
    """Return 16 hex digits of the code of a function of ours that a decorator registered.

    What it calls is code of its module.
    """
    path = Path(inspect.getfile(function))
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__:
            body = [statement for statement in node.body if not _is_text(statement)]
            return _short_hash(ast.dump(node.args) + "".join(map(ast.dump, body)))
    raise ValueError(f"function (={function.__name__}) must be defined in its file with def.")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _leave_out(tree: ast.AST, left_out: Callable[[ast.stmt], bool]) -> None:
    """Take the statements for which `left_out` holds out of every body, in place."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not left_out(s)]  # type: ignore[attr-defined]


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)


def _without_statements_of_settings(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return the statements of a module of settings that count."""
    stay = [s for s in body if not _checks(s) and not _declares_stage(s)]
    for statement in stay:
        if isinstance(statement, ast.ClassDef):
            statement.body = [s for s in statement.body if not _checks(s)]
    used = _used_names(stay)
    kept: list[ast.stmt] = []
    for statement in stay:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            statement.names = [a for a in statement.names if _bound(a) in used]
            if not statement.names:
                continue
        elif _is_private_function(statement) and statement.name not in used:  # type: ignore[attr-defined]
            continue
        elif isinstance(statement, ast.ClassDef):
            statement.body = [s for s in statement.body if not isinstance(s, ast.AnnAssign)]
        kept.append(statement)
    return kept


def _used_names(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names that statements use, those of private functions that none uses left out."""
    used: set[str] = set()
    private = {s.name: s for s in statements if isinstance(s, ast.FunctionDef) and s.name[0] == "_"}
    todo = [s for s in statements if not _is_private_function(s)]
    while todo:
        used |= {node.id for node in ast.walk(todo.pop()) if isinstance(node, ast.Name)}
        todo += [private.pop(name) for name in used & set(private)]
    return used


def _bound(alias: ast.alias) -> str:
    """Return the name that an import binds."""
    return alias.asname or alias.name.split(".")[0]


def _is_private_function(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef) and statement.name.startswith("_")


def _checks(statement: ast.stmt) -> bool:
    """Return whether a statement is a function that returns None."""
    if not isinstance(statement, ast.FunctionDef):
        return False
    return isinstance(statement.returns, ast.Constant) and statement.returns.value is None


def _declares_stage(statement: ast.stmt) -> bool:
    """Return whether a statement is `<name> = StageKind(...)`."""
    value = statement.value if isinstance(statement, ast.Assign) else None
    return isinstance(value, ast.Call) and _called(value) == "StageKind"


def _is_registered(statement: ast.stmt) -> bool:
    """Return whether a statement is a function under a decorator `register(...)`."""
    if not isinstance(statement, ast.FunctionDef):
        return False
    calls = [d for d in statement.decorator_list if isinstance(d, ast.Call)]
    return any(_called(call) == "register" for call in calls)


def _called(call: ast.Call) -> str:
    """Return the plain name that is called; "" for any other expression."""
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _is_marked(statement: ast.stmt) -> bool:
    """Return whether a statement is `HASHED_BY_NAME = True`."""
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is True
        and any(isinstance(t, ast.Name) and t.id == "HASHED_BY_NAME" for t in statement.targets)
    )


def _is_for_types(statement: ast.stmt) -> bool:
    """Return whether a statement is `if TYPE_CHECKING:` without an else."""
    if not isinstance(statement, ast.If) or statement.orelse:
        return False
    return isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"


def _is_protocol(statement: ast.stmt) -> bool:
    """Return whether a statement is a class that is a Protocol by itself."""
    if not isinstance(statement, ast.ClassDef):
        return False
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in statement.bases)


def _is_text(statement: ast.stmt) -> bool:
    """Return whether a statement is a bare string: a docstring, or the text under a field."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
