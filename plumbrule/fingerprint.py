"""Fingerprints: what decides whether a stage must run again.

A node's fingerprint hashes its kind, the code its stage can reach, the config it reads and the
fingerprints of its inputs. Code is hashed by syntax tree with docstrings dropped, over the project
modules reached from the stage's `run` by import statements, found by parsing and never by
importing: so editing a comment or docstring rebuilds nothing, and planning needs no torch. The
tree's dump is that of the running Python, so another Python minor version may rebuild.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError, DataError
from plumbrule.shipped import located
from plumbrule.source_files import files_under

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("plumbrule", "sft", "rlhf", "rag", "eval")


def digest(value: Any) -> str:
    """Return 16 hex digits of the sha256 of a JSON value with sorted keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hashed_config(config: Any) -> dict[str, Any]:
    """Return the JSON form of a stage's config that its fingerprint hashes.

    Fields marked `NOT_HASHED` are left out; a `CONTENT` path becomes a digest of the files it
    names, so that moving data changes nothing and editing it does (a `CONTENT_IF_LOCAL` name, too,
    where it names a folder).
    Raises: ConfigError: a `CONTENT` path does not exist.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        how = field.metadata.get("hashed")
        if how == "no":
            continue
        if how == "content if local" and value is not None:
            value = located(value)
        local = how == "content if local" and value is not None and Path(value).is_dir()
        if local or (how == "content" and value is not None):
            value = "content:" + content_digest(value)
        elif dataclasses.is_dataclass(value):
            value = hashed_config(value)
        elif isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
            value = [hashed_config(item) for item in value]
        values[field.name] = value
    return values


@lru_cache(maxsize=256)
def content_digest(path: str) -> str:
    """Return 16 hex digits of the names and bytes of the files under `path`.

    Litter of file managers and hidden files don't count, as no reader reads them.
    Raises: ConfigError: nothing is there, or something that can't be read.
    """
    root = Path(path)
    try:
        files = files_under(root)
    except DataError as error:
        raise ConfigError(f"path (={path}) must exist and be readable: {error}") from None
    whole = hashlib.sha256()
    for file in files:
        name = file.name if root.is_file() else str(file.relative_to(root))
        with open(file, "rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()[:16]


def plugin_digest(file: str) -> str:
    """Return 16 hex digits of a plug-in's file; "" for a file of ours, which stages' code holds."""
    path = Path(file).resolve()
    if any(path.is_relative_to(ROOT / package) for package in PACKAGES):
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def code_hashes(entries: Iterable[str]) -> dict[str, str]:
    """Return {relative source file: hash of its syntax tree} of all that `entries` can reach.

    entries: module names.
    """
    todo, seen = [name for entry in entries for name in _resolve(entry)], {}
    while todo:
        module = todo.pop()
        path = _source(module)
        if path is None or module in seen:
            continue
        seen[module] = path
        todo.extend(_imports(module))
    return {str(path.relative_to(ROOT)): _tree_hash(path) for _, path in sorted(seen.items())}


@lru_cache(maxsize=1024)
def _source(module: str) -> Path | None:
    """Return the file of a project module, or None for any other module."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    package = path / "__init__.py"
    if package.is_file():
        return package
    file = path.with_suffix(".py")
    return file if file.is_file() else None


def _resolve(module: str) -> list[str]:
    """Return the module and the packages above it, all of which an import runs."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


@lru_cache(maxsize=1024)
def _imports(module: str) -> tuple[str, ...]:
    """Return the project modules that a module's import statements name, at any depth."""
    path = _source(module)
    assert path is not None
    found: list[str] = []
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if _source(name) is not None:
                found.extend(_resolve(name))
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=1024)
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@lru_cache(maxsize=1024)
def _tree_hash(path: Path) -> str:
    tree = _tree(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                statement for statement in body if not _is_text(statement)
            ]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _is_text(statement: ast.AST) -> bool:
    """Return whether a statement is a bare string: a docstring, or the text under a field."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def forget() -> None:
    """Drop what was read of the project's files, so that it is read again."""
    for cached in (_source, _imports, _tree, _tree_hash, content_digest):
        cached.cache_clear()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys at which two nested mappings differ."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        name = f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{name}.")
        elif a != b:
            found.append(name)
    return found
