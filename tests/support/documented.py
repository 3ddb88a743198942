"""What pages of documentation name: commands, links and paths, as a reader would follow them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from places import ROOT

from plumbrule.cli.composition import CONF
from plumbrule.cli.sweeps.words import FOLDS, sweeper_words
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.setting_names import settings_of
from sft.data.config import DatasetConfig

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSER = OverridesParser.create()
_LINE = re.compile(r"^\s*(?:\$ |# (?:Command: )?)?plumbrule (.*)$", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`plumbrule ([^`]+)`(?!`)")
_PLACEHOLDER = re.compile(r"<[^>\n|]*>")
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_BRACES = re.compile(r"^([\w.+~]*)\{([\w,]+)\}([\w.{},]*=.*)$")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words behind `plumbrule` of every command in a page or a file of conf/.

    Comments are left out, lines that end with a backslash are joined, the shell's braces expanded.
    """
    joined = re.sub(r"\\\n\s*", " ", text)
    joined = _PLACEHOLDER.sub(lambda match: match[0].replace(" ", "_"), joined)
    found = [line for line in _LINE.findall(joined) if not line.startswith(("is ", "and "))]
    found += [inline.replace("\n", " ") for inline in _INLINE.findall(_FENCED.sub("", joined))]
    for line in found:
        for part in re.split(r";\s+plumbrule ", line):
            try:
                words = shlex.split(re.split(r"\s+# ", part)[0])
            except ValueError:
                continue  # prose that begins with the name
            yield [each for word in words for each in _expanded(word)]


def _expanded(word: str) -> list[str]:
    """Return the words that a shell makes of `{rm,ppo}.learning_rate=1`."""
    match = _BRACES.match(word)
    if match is None:
        return [word]
    return [w for part in match[2].split(",") for w in _expanded(f"{match[1]}{part}{match[3]}")]


def links(text: str) -> list[str]:
    """Return the targets of a page's links and pictures, web addresses aside."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", text))
    return [target for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", text), re.MULTILINE)
    shown = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in shown}


FOLDERS = r"(?:plumbrule|sft|rlhf|rag|eval|conf|scripts|tests|docs)"
_PATH = re.compile(rf"(?<![\w/.>-])({FOLDERS}/[\w./]*(?:\.\w+|/))(?![\w*<])")
_FILE = re.compile(r"`((?:\w+/)*\w+\.py)(?:::(\w+))?`")


def paths(text: str) -> set[tuple[str, str]]:
    """Return (path, test or "") of the project's files and folders that a page names."""
    found = {(path.rstrip("."), "") for path in _PATH.findall(text)}
    return found | set(_FILE.findall(_FENCED.sub("", text)))


def filled(text: str) -> str:
    """Return a text with its placeholders, such as <folder or hub name>, filled in."""
    return _PLACEHOLDER.sub("folder", text.replace("<field>", "cliprange"))


def check_override(word: str, default: DictConfig) -> None:
    """Fail unless Hydra reads a word, and its key is there, or is not where it is added."""
    key, _, value = word.partition("=")
    key = key.replace("VALUE", "ppo")
    try:
        PARSER.parse_overrides([f"{key}={value or 'folder'}"])
    except OverrideParseException:
        pytest.fail(f"Hydra can't read {word}")
    if word.startswith(FOLDS):  # which stands for `folds` and a sweep of `fold`
        assert f"folds={value}" in sweeper_words(["-m", word]), word
        return
    plain = key.lstrip("+~")
    folder = CONF / plain.partition("@")[0]
    if folder.is_dir():
        if value not in ("VALUE", "folder", "null", "...", "file"):
            choices = [v for v in value.split(",") if "/" not in v]
            assert all((folder / f"{choice}.yaml").is_file() for choice in choices), word
        return
    names = plain.split(".")
    if names[0] == "data":  # a role's own data set, there once it is chosen
        assert names[-1] in settings_of(DatasetConfig), word
        return
    there: Any = default
    for name in names:
        there = there[name] if isinstance(there, DictConfig) and name in there else None
        if there is None:
            break
    known = plain in settings_of(RunConfig)
    if key.startswith("+"):
        assert there is None, f"{word} must do without its +: the key is there"
        assert names[0] == "nodes", word
    else:
        assert known or there is not None or re.fullmatch(r"nodes\.\w+\.\w+\.\w+", plain), word


def first_of_sweep(words: list[str]) -> list[str]:
    """Return the overrides of the first cell of a sweep."""
    first = []
    for word in words:
        override = PARSER.parse_override(word)
        if override.is_sweep_override():
            word = f"{word.partition('=')[0]}={next(override.sweep_string_iterator())}"
        first.append(word)
    return first


def page_name(page: Path) -> str:
    """Return a page's path in the project, for the name of a test."""
    return page.relative_to(ROOT).as_posix()
