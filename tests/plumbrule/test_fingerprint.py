"""Fingerprints: what rebuilds a stage and what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plumbrule import fingerprint
from plumbrule.config import CONTENT, NOT_HASHED


@dataclass
class Inner:
    path: str | None = field(default=None, metadata=CONTENT)
    elsewhere: str | None = field(default=None, metadata=NOT_HASHED)
    number: int = 1


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str = "a"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two rooms, so that edits can be tried."""
    for room in ("plumbrule", "rlhf"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    (tmp_path / "plumbrule" / "floor.py").write_text("def f():\n    return 1\n")
    (tmp_path / "plumbrule" / "other.py").write_text("X = 1\n")
    (tmp_path / "rlhf" / "losses.py").write_text('"""Essay."""\nCLIP = 0.2\n')
    (tmp_path / "rlhf" / "ppo.py").write_text(
        "from rlhf.losses import CLIP\n\n\ndef run():\n    from plumbrule import floor\n"
        "    return floor.f() * CLIP\n"
    )
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    fingerprint.forget()
    yield tmp_path
    fingerprint.forget()


def test_code_is_what_a_stage_reaches_by_import(project: Path) -> None:
    found = fingerprint.code_hashes(["rlhf.ppo"])
    assert set(found) == {
        "plumbrule/__init__.py",
        "plumbrule/floor.py",
        "rlhf/__init__.py",
        "rlhf/losses.py",
        "rlhf/ppo.py",
    }


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("rlhf/losses.py", '"""Another essay."""\n# and a comment\nCLIP = 0.2\n', False),
        ("rlhf/losses.py", '"""Essay."""\nCLIP = 0.3\n', True),
        ("plumbrule/floor.py", "def f():\n    return 2\n", True),
        ("plumbrule/floor.py", 'def f():\n    """New docstring."""\n    return 1\n', False),
        ("plumbrule/other.py", "X = 2\n", False),
    ],
)
def test_edits_that_change_behaviour_change_the_hash(
    project: Path, file: str, text: str, changes: bool
) -> None:
    before = fingerprint.code_hashes(["rlhf.ppo"])
    (project / file).write_text(text)
    fingerprint.forget()
    after = fingerprint.code_hashes(["rlhf.ppo"])
    assert (after != before) is changes
    assert fingerprint.differences(before, after) == ([file] if changes else [])


def test_relative_imports_count(project: Path) -> None:
    (project / "rlhf" / "rm.py").write_text("from . import losses\n")
    assert "rlhf/losses.py" in fingerprint.code_hashes(["rlhf.rm"])


def test_a_path_counts_by_content_and_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x")
    first = fingerprint.hashed_config(Outer(Inner(path=str(tmp_path))))
    moved = tmp_path.parent / (tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert fingerprint.hashed_config(Outer(Inner(path=str(moved)))) == first
    (moved / "a.jsonl").write_text("y")
    fingerprint.forget()
    assert fingerprint.hashed_config(Outer(Inner(path=str(moved)))) != first


def test_a_folder_counts_by_which_file_holds_what(tmp_path: Path) -> None:
    """Two files that change names are another data set: one of them may be the held-out part."""
    digests = []
    for name, first, second in (("one", "a", "b"), ("other", "b", "a")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.jsonl").write_text(first)
        (folder / "validation.jsonl").write_text(second)
        (folder / "extra.jsonl").write_text("c")
        digests.append(fingerprint.content_digest(str(folder)))
    assert digests[0] != digests[1]
    (tmp_path / "one" / "extra.jsonl").rename(tmp_path / "one" / "more.jsonl")
    fingerprint.forget()
    assert fingerprint.content_digest(str(tmp_path / "one")) != digests[0]


def test_a_field_that_another_node_reads_is_left_out() -> None:
    here, there = Outer(Inner(elsewhere="x")), Outer(Inner(elsewhere="y"))
    assert fingerprint.hashed_config(here) == fingerprint.hashed_config(there)
    assert fingerprint.hashed_config(Outer(name="b")) != fingerprint.hashed_config(Outer())


def test_every_stage_reaches_its_own_room(composed: Callable) -> None:
    found = fingerprint.code_hashes(["rlhf.ppo"])
    assert "rlhf/losses.py" in found
    assert "plumbrule/scoring.py" in found
    assert not [f for f in found if f.startswith(("sft/", "rag/", "eval/"))]
    assert "plumbrule/pipeline.py" not in found
