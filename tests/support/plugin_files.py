"""A plug-in of a test: its text is imported as a file, and the tables forget what it registered."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from plumbrule.registry import Registry


def importer(
    monkeypatch: pytest.MonkeyPatch, tables: Iterable[Registry], path: Path
) -> Callable[[str], str]:
    """Return a function that writes a text to `path`, imports it and returns its digest."""
    for table in tables:
        monkeypatch.setattr(table, "_options", dict(table._options))

    def imported(text: str) -> str:
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    return imported
