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

Parsing all that a stage reaches takes longer than the rest of a plan, so `KeptCode` keeps what was
found of each file, by the digest of its text, in the folder where Python keeps its bytecode.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.store.manifests import write_text

_OWN_TEXT = Path(__file__).read_text(encoding="utf-8")
"""Of this module as it was imported: the file may be edited while the process lives."""


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


class KeptCode:
    """What counts of the files below a folder, kept from one process to the next.

    What is kept of a file holds for its text, this module's and this Python alone; a kept file that
    can't be read is as none. Nothing is written where Python is told to write no bytecode, or where
    it could not.

    Args: root: the folder.
    """

    def __init__(self, root: Path):
        self._root = root
        source = importlib.util.cache_from_source(str(root / "plumbrule" / "computing_code.py"))
        self._file = Path(source).with_suffix(".json")
        self._known = self._read()
        self._added = False

    def of(self, path: Path, text: str, of_settings: bool) -> ComputingCode:
        """Return what counts of a file below the folder with this text."""
        name = str(path.relative_to(self._root))
        text_digest = hashlib.sha256(text.encode()).hexdigest()
        kept = self._known.get(name)
        if kept is not None and kept[0] == text_digest:
            imports = tuple((level, base, tuple(names)) for level, base, names in kept[1])
            return ComputingCode(imports, kept[2])
        made = computing_code(text, of_settings)
        self._known[name] = [text_digest, made.imports, made.digest]
        self._added = True
        return made

    def keep(self) -> None:
        """Write down what was added; a process that does so at the same time may undo it."""
        if not self._added or sys.dont_write_bytecode:
            return
        self._added = False
        whole = json.dumps(self._known)
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, f"{self._digest(whole)}\n{whole}")

    def _read(self) -> dict[str, list[Any]]:
        try:
            kept_digest, _, whole = self._file.read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return {}
        return json.loads(whole) if kept_digest == self._digest(whole) else {}

    def _digest(self, whole: str) -> str:
        """Return the digest of what was kept and of what decides it: this module and Python."""
        return hashlib.sha256(f"{_OWN_TEXT}{sys.version}{whole}".encode()).hexdigest()


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
    for node in _statements(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not left_out(s)]  # type: ignore[attr-defined]


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree and all statements in it, with the handlers and cases that hold some.

    No expression holds a statement, and most of a tree is expressions. What is taken out of the
    body of what was yielded is not reached.
    """
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                todo.extend(inner)


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    for node in _statements(tree):
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
