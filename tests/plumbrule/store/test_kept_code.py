"""What counts of source files is kept between processes, and only for what it was made of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from plumbrule.store import computing_code as module
from plumbrule.store.computing_code import ComputingCode, KeptCode, computing_code

TEXT = "from plumbrule import errors\nX = 1\n"
EDITED = "from plumbrule import config, errors\nX = 2\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    (tmp_path / "plumbrule").mkdir()
    return tmp_path


def found(root: Path, text: str = TEXT) -> ComputingCode:
    """Return what a process finds of the file `rlhf/ppo.py`, and let it keep that."""
    kept = KeptCode(root)
    code = kept.of(root / "rlhf" / "ppo.py", text, False)
    kept.keep()
    return code


def kept_file(root: Path) -> Path:
    (file,) = (root / "plumbrule" / "__pycache__").iterdir()
    return file


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are parsed."""
    texts: list[str] = []

    def spied(text: str, of_settings: bool) -> ComputingCode:
        texts.append(text)
        return computing_code(text, of_settings)

    monkeypatch.setattr(module, "computing_code", spied)
    return texts


def test_a_later_process_parses_what_was_edited_alone(root: Path, parsed: list[str]) -> None:
    first = found(root)
    assert first == computing_code(TEXT, False)
    assert found(root) == first
    assert parsed == [TEXT]
    assert found(root, EDITED) == computing_code(EDITED, False) != first
    assert found(root) == first  # the place of a file holds its newest text alone
    assert parsed == [TEXT, EDITED, TEXT]


def test_what_was_damaged_or_made_by_another_python_is_as_none(
    root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = found(root)
    whole = kept_file(root).read_bytes()
    other = whole.replace(first.digest.encode(), b"0" * 16)
    assert other != whole
    for damaged in (other, whole[:-1], b"", b"\xff\n{}"):
        kept_file(root).write_bytes(damaged)
        assert found(root) == first
    assert parsed == [TEXT] * 5
    monkeypatch.setattr(sys, "version", "3.99.0")
    assert found(root) == first
    assert parsed == [TEXT] * 6


def test_nothing_is_kept_where_python_may_write_no_bytecode(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found(root)
    assert not list((root / "plumbrule").iterdir())
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (root / "plumbrule" / "__pycache__").write_text("no folder")
    assert found(root) == computing_code(TEXT, False)


def test_what_an_older_version_of_this_module_finds_is_not_taken_for_a_newer_ones(
    root: Path, tmp_path: Path
) -> None:
    """A process may live on while the module that it imported is edited or pulled anew."""
    copied = tmp_path / "copied.py"
    copied.write_bytes(Path(str(module.__file__)).read_bytes())
    older = _imported(copied)
    edited = copied.read_text(encoding="utf-8").replace("hexdigest()[:16]", "hexdigest()[16:32]")
    copied.write_text(edited, encoding="utf-8")
    newer = _imported(copied)
    places = root / "rlhf" / "ppo.py"
    digests = []
    for version in (older, newer):
        kept = version.KeptCode(root)
        digests.append(kept.of(places, TEXT, False).digest)
        kept.keep()
    assert digests[1] == newer.computing_code(TEXT, False).digest != digests[0]


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("copied", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
