"""Fingerprints: what decides whether a stage must run again.

A node's fingerprint hashes its kind, the code its stage can reach, the config it reads and the
fingerprints of its inputs. Code is hashed by syntax tree with docstrings dropped, over the project
modules reached from the stage's `run` by import statements, found by parsing and never by
importing: so editing a comment or docstring rebuilds nothing, and planning needs no torch. The
tree's dump is that of the running Python, so another Python minor version may rebuild.

An option that is added and left off rebuilds nothing: a setting at its *first* default, the one in
`first_defaults.json`, is not hashed. Later defaults are: whoever relied on one that changed gets
another fingerprint. A setting that the file does not name is always hashed, so forgetting it there
costs a rebuild and nothing else. What of a file is no code: `computing_code.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError, DataError
from plumbrule.store.adapter_files import base_of, is_adapter_folder
from plumbrule.store.computing_code import ComputingCode, KeptCode, is_config
from plumbrule.store.packaged_files import located
from plumbrule.store.source_files import files_under, is_hub_data

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("plumbrule", "sft", "rlhf", "rag", "eval")
FIRST_DEFAULTS = ROOT / "plumbrule" / "first_defaults.json"


def digest(value: Any) -> str:
    """Return 16 hex digits of the sha256 of a JSON value with sorted keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hashed_config(config: Any) -> dict[str, Any]:
    """Return the JSON form of a stage's config: all of it that changes a number.

    Fields marked `NOT_HASHED` are left out; a `CONTENT` path becomes a digest of the files it
    names, so that moving data changes nothing and editing it does (a `CONTENT_IF_LOCAL` name, too,
    where it names a folder). An adapter's base is part of its content, wherever it lies.
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
            value = "content:" + (model_digest(value) if local else content_digest(value))
        elif dataclasses.is_dataclass(value):
            value = hashed_config(value)
        elif isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
            value = [hashed_config(item) for item in value]
        values[field.name] = value
    return values


def model_digest(path: str | Path) -> str:
    """Return the digest of a model's folder and, where it is an adapter, of its base outside.

    Raises: ConfigError: as `base_of`.
    """
    own = content_digest(str(path))
    if not is_adapter_folder(path):
        return own
    base, _ = base_of(Path(path))  # a hub name's commit stands in the folder's own files
    inside = isinstance(base, str) or base.resolve().is_relative_to(Path(path).resolve())
    return own if inside else digest([own, content_digest(str(base))])


def changed_settings(config: Any) -> dict[str, Any]:
    """Return `hashed_config` without settings at their first default: what a fingerprint hashes.

    A group of settings that is all at its first defaults is left out too, unless it stands where
    None was the default.
    """
    return _without_first_defaults(config, hashed_config(config))


def _without_first_defaults(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    first = first_defaults().get(type(config).__name__, {})
    kept: dict[str, Any] = {}
    for name, value in values.items():
        own = getattr(config, name)
        if dataclasses.is_dataclass(own):
            inner = _without_first_defaults(own, value)
            if inner or name in first:
                kept[name] = inner
        elif isinstance(own, list) and own and dataclasses.is_dataclass(own[0]):
            kept[name] = [_without_first_defaults(o, v) for o, v in zip(own, value, strict=True)]
        elif name not in first or not _same(value, first[name]):
            kept[name] = value
    return kept


def _same(value: Any, default: Any) -> bool:
    """Return whether two JSON values are alike; 1, 1.0 and true are not."""
    return json.dumps(value, sort_keys=True) == json.dumps(default, sort_keys=True)


@lru_cache(maxsize=1)
def first_defaults() -> dict[str, dict[str, Any]]:
    """Return class name -> setting -> the default with which it was added.

    `scripts/note_first_defaults.py` adds what is missing; what is there is never changed.
    """
    return json.loads(FIRST_DEFAULTS.read_text(encoding="utf-8"))


@lru_cache(maxsize=256)
def content_digest(path: str) -> str:
    """Return 16 hex digits of the names and bytes of the files under `path`.

    Litter of file managers and hidden files don't count, as no reader reads them. A data set on the
    hub counts by its name and commit.
    Raises: ConfigError: nothing is there, or something that can't be read.
    """
    if is_hub_data(path):
        return digest(path)
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
    found = {str(path.relative_to(ROOT)): _code(path).digest for _, path in sorted(seen.items())}
    _kept_code(ROOT).keep()
    return found


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
    for level, base, names in _code(path).imports:
        if level:
            above = package.split(".")[: len(package.split(".")) - level + 1]
            base = ".".join([*above, base] if base else above)
        for name in (base, *(f"{base}.{name}" for name in names)):
            if _source(name) is not None:
                found.extend(_resolve(name))
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=1024)
def _code(path: Path) -> ComputingCode:
    return _kept_code(ROOT).of(path, path.read_text(encoding="utf-8"), is_config(path))


@lru_cache(maxsize=8)
def _kept_code(root: Path) -> KeptCode:
    return KeptCode(root)


def forget() -> None:
    """Drop what was read of the project's files, so that it is read again."""
    for cached in (_source, _imports, _code, content_digest):
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
