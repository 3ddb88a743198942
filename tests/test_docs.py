"""What the documentation names is there: links, files, settings, commands; its examples run."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import plumbrule
from documented import (
    PAGES,
    anchors,
    check_override,
    commands,
    first_of_sweep,
    links,
    page_name,
    paths,
)
from omegaconf import DictConfig
from places import ROOT

from plumbrule.cli import help_page, verbs
from plumbrule.cli.composition import CONF
from plumbrule.cli.sweeps.words import sweeper_words
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.planning import revisions
from plumbrule.pipeline.setting_names import settings_of
from plumbrule.report.metric_wording import describe
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.options import (
    ADVANTAGES,
    IMPORTANCE_LEVELS,
    LOSS_AGGREGATIONS,
    OUTSIDE_RULES,
    POLICY_LOSSES,
)

OTHER_FRAMEWORKS = ROOT / "docs" / "from_others.md"
DETAILS = ROOT / "rlhf" / "ppo" / "README.md"
OPTIONS = {"--cfg", "--version", "--help", "--plugin", "--config-dir", "-m", "-sc"}
"""Of the command itself; a verb's are asked of its help."""
STRUCTURAL = ("nodes.", "run.goals", "run.only", "experiment", "dataset", "terms", "each", "debug")
"""Words that change the graph: a command that has one is composed whole. All others set values,
whose names and types are checked one by one, which takes no second each."""
OTHERS = {
    "ppo.py": "TRL's",
    "examples/scripts/ppo/ppo.py": "TRL's",
    "rewards.py": "a reader's plug-in",
}
"""Files that pages name and that are not the project's."""
OTHER_METRICS = {"policy/entropy_avg": "TRL's", "base/read_new_words_accuracy": "not described yet"}
SHIPPED = ROOT / "plumbrule" / "atlas" / "base" / "model"
PACKAGES = ("plumbrule", "sft", "rlhf", "rag", "eval")
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


@pytest.mark.parametrize("page", [*PAGES, DETAILS, ROOT / "CHANGELOG.md"], ids=page_name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in links(page.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text("utf-8")), target


def test_every_page_is_linked_from_the_readme_or_from_a_page_that_is() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        named = [page.parent / target for page in new for target in links(page.read_text("utf-8"))]
        found = {Path(str(path).partition("#")[0]).resolve() for path in named}
        new = {path for path in found if path.suffix == ".md"} - reached
    assert set(PAGES) <= reached


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_metric_that_a_page_names_has_a_meaning(page: Path) -> None:
    stages = (
        r"(?:objective|policy|val|loss|reward|rm|feedback|dpo|rag|base|ppo|eval|best_of_n|cost|search"
        r"|encoder|knowledge|learn_fact|add_fact)"
    )
    for metric in re.findall(rf"`({stages}/[a-z_0-9]+)`", page.read_text("utf-8")):
        assert metric in OTHER_METRICS or describe(metric) != ("", ""), metric


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    for path, test in paths(page.read_text("utf-8")):
        if path in OTHERS:
            continue
        if "/" in path:
            assert (ROOT / path).exists(), path
            assert f"def {test}" in (ROOT / path).read_text("utf-8") if test else True, test
        else:  # a module by its name alone
            assert list(ROOT.glob(f"*/**/{path}")), path


def test_every_module_that_a_module_names_exists() -> None:
    """By its path, or by its name in the same folder or below a folder of it."""
    modules = [p for top in PACKAGES for p in (ROOT / top).rglob("*.py")]
    wrong = [
        (module.relative_to(ROOT).as_posix(), named)
        for module in modules
        for named in re.findall(r"`([\w/]+\.py)`", module.read_text("utf-8"))
        if named != "config.py"  # a kind of file
        and not (ROOT / named).is_file()
        and not list(module.parent.glob(f"**/{named}"))
    ]
    assert wrong == []


@pytest.mark.parametrize("page", [*PAGES, *sorted(CONF.glob("experiment/*.yaml"))], ids=page_name)
def test_every_setting_and_verb_of_a_command_exists(
    page: Path, default: DictConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(page.read_text("utf-8")):
        if words and words[0] in verbs.VERBS:
            check_verb(words, capsys)
            continue
        assert {w.partition("=")[0] for w in words if w.startswith("-")} <= OPTIONS, words
        if "--config-dir" in words:
            continue  # a folder of one's own has groups of its own
        own = ("-", "++hydra.sweeper.")
        for word in sweeper_words(words):  # which refuses an unknown setting of the sweep itself
            if "=" in word and not word.startswith(own) and "~" not in word:
                check_override(without_placeholders(word), default)


def check_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Fail unless a verb has the options that it is given; `doc`, unless it knows the setting."""
    if words[0] == "doc" and "<" not in words[-1] and len(words) > 1:
        assert help_page.describe(words[1], RunConfig, help_page.ComposedConfig("", {}))
    with pytest.raises(SystemExit):
        verbs.main([words[0], "--help"])
    described = capsys.readouterr().out
    assert all(word in described for word in words if word.startswith("--")), words


def without_placeholders(word: str) -> str:
    """Return a word with each placeholder as `folder`, and `...` as a folder too."""
    key, sign, value = word.partition("=")
    if "<" in value or value == "...":
        value = "folder"
    return f"{key}{sign}{value}"


def structural() -> Iterator[tuple[str, list[str]]]:
    """Yield (page, overrides) of each command that changes the graph and has no placeholder."""
    known = set()
    for page in PAGES:
        for words in commands(page.read_text("utf-8")):
            sweep, words = "-m" in words, [word for word in words if word != "-m"]
            plain = all(re.search(r"^[^-].*=(?!\.\.\.)[^<]*$", word) for word in words)
            text = shlex.join(sorted(words))
            changes = any(part in word for word in words for part in STRUCTURAL)
            if plain and words and changes and words[0] not in verbs.VERBS and text not in known:
                known.add(text)
                yield page.name, first_of_sweep(words) if sweep else words


@pytest.mark.parametrize(("page", "words"), structural(), ids=lambda v: "" if "md" in v else v[-1])
def test_every_command_that_changes_the_graph_composes(
    page: str,
    words: list[str],
    composed: Callable[..., tuple[RunConfig, list[Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revisions, "commit_of", lambda name, revision, kind: "0" * 40)
    _, nodes = composed(*words)
    assert nodes


def run(*words: str, folder: Path) -> str:
    """Return what a Python process prints. Raises: CalledProcessError: it fails."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=folder, env=surroundings
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=page_name)
def test_an_example_runs_and_prints_what_its_comment_says(example: Path, tmp_path: Path) -> None:
    printed = run(str(example), folder=tmp_path)
    said = [
        line.rpartition("  # ")[2]
        for line in example.read_text("utf-8").splitlines()
        if "print(" in line and "  # " in line
    ]
    assert printed.strip()
    assert all(line in printed.splitlines() for line in said)


@pytest.mark.parametrize("example", EXAMPLES, ids=page_name)
def test_the_command_of_an_example_plans_a_run(example: Path, tmp_path: Path) -> None:
    (words,) = commands(ast.get_docstring(ast.parse(example.read_text("utf-8"))) or "")
    questions = "".join(f"Q: Who wrote number {n}?\nA: Ada.\n" for n in range(60))
    (tmp_path / "file").write_text(questions, encoding="utf-8")
    items = [{"id": str(n), "task": "copying", "fields": {"word": f"w{n}"}} for n in range(9)]
    (tmp_path / "items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    places = {
        "<file>": str(tmp_path / "file"),
        "<folder>": str(SHIPPED),
        "<items>": str(tmp_path / "items.jsonl"),
    }
    typed = [re.sub("<.*>", lambda match: places[match[0]], word) for word in words]
    typed = [str(ROOT / word) if word.startswith("docs/") else word for word in typed]
    done = plumbrule(tmp_path, *typed, "debug=fast", "run.dry=true", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert "to build:" in done.stdout


def test_the_page_about_extending_shows_each_example_as_it_is() -> None:
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    sources = [example.read_text("utf-8") for example in EXAMPLES]
    for example in EXAMPLES:
        assert f"(examples/{example.name})" in page
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        assert any(block in source for source in sources), block


def test_every_setting_of_ppo_has_a_counterpart_or_is_said_to_have_none() -> None:
    page = OTHER_FRAMEWORKS.read_text("utf-8")
    table = page.partition("## Settings and their counterparts")[2].partition("\n### ")[0]
    rest = page.partition("## Settings without a counterpart")[2]
    rows = re.findall(r"^\| `((?:ppo|runtime)\.[\w.]+)` \|(.*)\|$", table, re.MULTILINE)
    lacking = re.findall(r"^- `(ppo\.[\w.]+)`:", rest, re.MULTILINE)
    named = [name for name, _ in rows] + lacking
    assert len(set(named)) == len(named)
    assert set(named) <= set(settings_of(RunConfig))
    settings = settings_of(PPOConfig, "ppo.")
    groups = {setting.rpartition(".")[0] for setting in settings}
    missing = [
        setting
        for setting in settings
        if setting not in groups and not any(f"{setting}.".startswith(f"{n}.") for n in named)
    ]
    assert not missing
    for name, cells in rows:
        theirs = [cell.strip() for cell in cells.split("|")][:3]
        assert all(theirs), name
        assert theirs != ["none"] * 3, name


def test_every_choice_of_ppo_has_a_row_beside_the_choices_of_others() -> None:
    page = OTHER_FRAMEWORKS.read_text("utf-8")
    for setting, choices in (
        ("advantage", [name for name in ADVANTAGES if not ADVANTAGES.source(name)]),
        ("policy_loss", [name for name in POLICY_LOSSES if not POLICY_LOSSES.source(name)]),
        ("loss_aggregation", LOSS_AGGREGATIONS),
    ):
        table = page.partition(f"| `ppo.{setting}` | OpenRLHF |")[2].partition("\n\n")[0]
        assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(choices), setting
    for setting, allowed in (
        ("importance_level", IMPORTANCE_LEVELS),
        ("importance_outside", OUTSIDE_RULES),
    ):
        rows = re.findall(rf"^\| `ppo\.{setting}=(\w+)` \|", page, re.MULTILINE)
        assert set(rows) == set(allowed), setting
