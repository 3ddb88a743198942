"""Fingerprints: what rebuilds a stage and what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from places import ROOT

from plumbrule.config import CONTENT, NOT_HASHED
from plumbrule.store import fingerprint
from plumbrule.store.computing_code import registered_digest


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
    found = fingerprint.code_hashes(["rlhf.ppo.stage"])
    assert "rlhf/ppo/losses.py" in found
    assert "plumbrule/lm/logprobs.py" in found
    assert not [f for f in found if f.startswith(("sft/", "rag/", "eval/"))]
    assert "plumbrule/pipeline.py" not in found


# --- an option that is added and left off -------------------------------------------------------


@dataclass
class Group:
    coef: float = 0.05


@dataclass
class Stage:
    steps: int = 4
    group: Group = field(default_factory=Group)


@dataclass
class GroupLater:
    coef: float = 0.05
    bound: float | None = None


@dataclass
class StageLater:
    steps: int = 4
    group: Group = field(default_factory=Group)
    more: GroupLater = field(default_factory=GroupLater)
    chosen: Group | None = None


def settings(
    monkeypatch: pytest.MonkeyPatch, first: dict[str, dict[str, object]], config: object
) -> dict[str, object]:
    monkeypatch.setattr(fingerprint, "first_defaults", lambda: first)
    return fingerprint.changed_settings(config)


FIRST = {"Stage": {"steps": 4}, "Group": {"coef": 0.05}}
FIRST_LATER = {
    **FIRST,
    "StageLater": {"steps": 4, "chosen": None},
    "GroupLater": {"coef": 0.05, "bound": None},
}


def test_an_option_that_is_added_and_left_off_changes_no_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = settings(monkeypatch, FIRST, Stage(steps=9))
    assert before == settings(monkeypatch, FIRST_LATER, StageLater(steps=9)) == {"steps": 9}
    turned_on = settings(monkeypatch, FIRST_LATER, StageLater(9, more=GroupLater(bound=1.0)))
    assert turned_on == {"steps": 9, "more": {"bound": 1.0}}
    # a group where None was the default is not the same as None
    chosen = settings(monkeypatch, FIRST_LATER, StageLater(9, chosen=Group()))
    assert chosen == {"steps": 9, "chosen": {}}


def test_a_default_that_changed_counts_for_those_who_relied_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass
    class Stage:
        steps: int = 5  # 4 at first
        group: Group = field(default_factory=Group)

    assert settings(monkeypatch, FIRST, Stage()) == {"steps": 5}
    assert settings(monkeypatch, FIRST, Stage(steps=4)) == {}  # what relied on nothing stays
    # a setting that the file does not name is always hashed
    assert settings(monkeypatch, {}, Stage()) == {"steps": 5, "group": {"coef": 0.05}}


def test_whoever_relied_on_a_default_of_ours_that_changed_is_built_again(
    composed: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from plumbrule.pipeline.plan import make_plan
    from plumbrule.store.artifacts import Store

    def fingerprints(*overrides: str) -> dict[str, str]:
        plan = make_plan(composed(*overrides)[1], Store(tmp_path))
        return {p.node.name: p.fingerprint for p in plan}

    relied, said = fingerprints(), fingerprints("ppo.cliprange=0.3")
    first = {name: dict(of) for name, of in fingerprint.first_defaults().items()}
    first["PPOConfig"]["cliprange"] = 0.3  # as if 0.2, today's default, were a later one
    monkeypatch.setattr(fingerprint, "first_defaults", lambda: first)
    now_relied, now_said = fingerprints(), fingerprints("ppo.cliprange=0.3")
    changed = {name for name in relied if relied[name] != now_relied[name]}
    assert changed == {"ppo", "eval", "compare"} == {n for n in said if said[n] != now_said[n]}


def test_every_setting_has_its_first_default_noted() -> None:
    import subprocess
    import sys

    root = ROOT
    command = [sys.executable, str(root / "scripts" / "note_first_defaults.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    missing = done.stdout.split() if done.returncode else []
    assert missing == [], "run python scripts/note_first_defaults.py"


SETTINGS = """
from dataclasses import dataclass
from plumbrule import floor, other
from plumbrule.stage_kind import StageKind

def _is_right(value) -> bool:
    return value < floor.f()

def require(holds: bool) -> None:
    assert holds

@dataclass
class PPOConfig:
    cliprange: float = 0.2
    shape: other.X = None

    def __post_init__(self) -> None:
        assert self.cliprange > 0 and _is_right(self.cliprange)

    @property
    def doubled(self) -> float:
        return 2 * self.cliprange

def _reads(config) -> bool:
    return config.cliprange > 0

STAGE = StageKind("ppo", PPOConfig, read_if=_reads)
"""


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("cliprange: float = 0.2", "cliprange: float = 0.2\n    dual_clip: int = 0", False),
        ("assert self.cliprange > 0", "assert self.cliprange > 1", False),
        ("return 2 * self.cliprange", "return 3 * self.cliprange", True),
        ("from dataclasses", "LIMIT = 3\nfrom dataclasses", True),
        ("assert holds", "assert not holds", False),
        ("return value < floor.f()", "return value > floor.f()", False),
        ("return config.cliprange > 0", "return config.cliprange > 1", False),
        ('StageKind("ppo"', 'StageKind("dpo"', False),
        ("return 2 * self.cliprange", "return 2 * _is_right(self)", True),
    ],
)
def test_of_settings_only_what_computes_is_code(
    project: Path, old: str, new: str, changes: bool
) -> None:
    file = project / "rlhf" / "ppo_config.py"
    (project / "rlhf" / "ppo.py").write_text("from rlhf.ppo_config import PPOConfig\n")
    file.write_text(SETTINGS)
    before = fingerprint.code_hashes(["rlhf.ppo"])
    assert old in SETTINGS
    file.write_text(SETTINGS.replace(old, new))
    fingerprint.forget()
    assert (fingerprint.code_hashes(["rlhf.ppo"]) != before) is changes


def test_a_config_reaches_what_its_fields_are_and_not_what_only_checks_use(project: Path) -> None:
    (project / "rlhf" / "ppo.py").write_text("from rlhf.ppo_config import PPOConfig\n")
    (project / "plumbrule" / "stage_kind.py").write_text("class StageKind: ...\n")
    (project / "rlhf" / "ppo_config.py").write_text(SETTINGS)
    found = {Path(name).name for name in fingerprint.code_hashes(["rlhf.ppo"])}
    assert found == {"__init__.py", "ppo.py", "ppo_config.py", "other.py"}


def test_a_protocol_and_an_import_for_types_are_no_code(project: Path) -> None:
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import plumbrule.floor\n"
    (project / "rlhf" / "ppo.py").write_text(f"{types}class A(Protocol):\n    b: int\n")
    before = fingerprint.code_hashes(["rlhf.ppo"])
    assert "plumbrule/floor.py" not in before
    (project / "rlhf" / "ppo.py").write_text(f"{types}class A(Protocol):\n    b: str\n")
    fingerprint.forget()
    assert fingerprint.code_hashes(["rlhf.ppo"]) == before


def test_a_registered_function_is_code_of_those_who_name_it_only(project: Path) -> None:
    file = project / "rlhf" / "rules.py"
    text = 'HASHED_BY_NAME = True\n@register("a")\ndef a(x):\n    return help(x)\n'
    (project / "rlhf" / "ppo.py").write_text("import rlhf.rules\n")
    found = []
    for source in (text, text + '@register("b")\ndef b(x):\n    return 1\n', text + "X = 1\n"):
        file.write_text(source)
        fingerprint.forget()
        found.append(fingerprint.code_hashes(["rlhf.ppo"])["rlhf/rules.py"])
    assert found[0] == found[1] != found[2]
    file.write_text(text.removeprefix("HASHED_BY_NAME = True\n") + '@register("b")\ndef b(x): 1\n')
    fingerprint.forget()
    unmarked = fingerprint.code_hashes(["rlhf.ppo"])["rlhf/rules.py"]
    file.write_text(text.removeprefix("HASHED_BY_NAME = True\n"))
    fingerprint.forget()
    assert fingerprint.code_hashes(["rlhf.ppo"])["rlhf/rules.py"] != unmarked


def test_a_term_of_ours_carries_the_digest_of_its_function() -> None:
    from rlhf.rewards.config import RewardTermConfig
    from rlhf.rewards.functions import FUNCTIONS

    digests = {name: RewardTermConfig(name).source for name in ("length", "repetition", "citation")}
    assert len(set(digests.values())) == 3
    assert all(len(d) == 16 for d in digests.values())
    assert RewardTermConfig("rm").source == ""
    assert digests["length"] == registered_digest(FUNCTIONS["length"])


def test_a_file_that_did_not_change_is_parsed_once(monkeypatch):
    before = fingerprint.code_hashes(["rlhf.ppo.stage"])
    fingerprint.forget()
    monkeypatch.delattr("ast.parse")
    assert fingerprint.code_hashes(["rlhf.ppo.stage"]) == before
