"""What an error tells one to paste works when it is pasted."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from _pytest.outcomes import Failed
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from places import ROOT

from plumbrule.cli.composition import CONF, register
from plumbrule.cli.verbs import VERBS
from plumbrule.overrides import as_override, unreadable
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.setting_names import settings_of
from sft.data.config import DatasetConfig

PARSER = OverridesParser.create()
TEXTS = ["<|endoftext|>", "a b", "a=b", "~/x", "x#y", "a'b", 'a"b', "a\\", "1", "1e5", "null"]
TEXTS += ["ü", "a,b", "[x]", "", " a ", "${x}", "0123e4567", "/data/a-b_1.jsonl", "owner/model"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_comes_back_as_the_text_that_it_is(text: str) -> None:
    (word,) = shlex.split(as_override("model.pad_token", text))
    assert PARSER.parse_override(word).value() == text


@pytest.mark.parametrize(
    "word", ["a=~/x", "a=<|x|>", "a=x=y", "a=b(c).jsonl", "a=x#y", "a=x[1]", "a=/x/ü", "a='b'c"]
)
def test_what_hydra_cant_read_is_said_how_to_quote(word: str) -> None:
    with pytest.raises(OverrideParseException) as caught:
        PARSER.parse_overrides([word])
    said = unreadable(str(caught.value.override))
    (pasted,) = shlex.split(said.rpartition("; write ")[2])
    value = word.partition("=")[2]
    expanded = str(Path(value).expanduser()) if value.startswith("~") else value
    assert PARSER.parse_override(pasted).value() == expanded


SUGGESTED = re.compile(
    r"(?<![\w.<@{/])((?:\+\+?|~)?(?:dataset@)?[a-z_]+(?:\.(?:[a-z_0-9]+|<[a-z ]+>))*"
    r"=(?:'[^']*'|\[[^\]]*\]|<[^>]*>|[^\s;:,)\"'`]+))"
)
"""A word of a text that looks like an override."""


def suggestions() -> list[tuple[str, str]]:
    """Return (where, override) of everything that a message or a docs page tells one to type."""
    found = []
    for room in ("plumbrule", "sft", "rlhf", "rag", "eval"):
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Raise) or _is_require(node):
                    found += [(str(path.relative_to(ROOT)), t) for t in _texts(node)]
    return [
        (where, match.group(1).rstrip("."))
        for where, text in found
        for match in SUGGESTED.finditer(filled(text))
    ]


def filled(text: str) -> str:
    """Return a text with its placeholders, such as <folder or hub name>, filled in."""
    return re.sub(r"<[^>\n]*>", "folder", text.replace("<field>", "cliprange"))


def _is_require(node: ast.AST) -> bool:
    name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
    return name.startswith("require") or name == "hint"


def _texts(node: ast.AST) -> list[str]:
    """Return the texts under a node; a value that is filled in stands as VALUE."""
    if isinstance(node, ast.JoinedStr):
        parts = [str(v.value) if isinstance(v, ast.Constant) else "VALUE" for v in node.values]
        return ["".join(parts)]
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    return [text for child in ast.iter_child_nodes(node) for text in _texts(child)]


@pytest.fixture(scope="module")
def default() -> DictConfig:
    """The default composition."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config")


def check_override(word: str, default: DictConfig) -> None:
    """Fail unless Hydra reads a word, and its key is there, or is not where it is added."""
    key, _, value = word.partition("=")
    key = key.replace("VALUE", "ppo")
    try:
        PARSER.parse_overrides([f"{key}={value or 'folder'}"])
    except OverrideParseException:
        pytest.fail(f"Hydra can't read {word}")
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


def test_every_override_that_a_message_tells_works(default: DictConfig) -> None:
    kinds = {*dict.fromkeys(n.split(".")[0] for n in settings_of(RunConfig)), "experiment", "debug"}
    checked = 0
    for where, word in suggestions():
        key = word.partition("=")[0].lstrip("+~").removeprefix("dataset@")
        if key.partition(".")[0] in kinds - {"seed"}:
            try:
                (typed,) = shlex.split(word)
                check_override(typed, default)
            except (AssertionError, Failed) as error:
                pytest.fail(f"{where}: {error}")
            checked += 1
    assert checked > 25


COMMAND = re.compile(r"^\s*(?:\$ |# (?:Command: )?)?plumbrule (.*?)(?:\s{2,}.*)?$", re.MULTILINE)


def test_every_command_of_the_docs_works(default: DictConfig) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *CONF.glob("experiment/*.yaml")]
    checked = 0
    for page in pages:
        for match in COMMAND.finditer(filled(page.read_text(encoding="utf-8"))):
            line = match.group(1).split(" # ")[0].strip().rstrip("\\")
            try:
                words = shlex.split(line.replace("\\\n", " "))
            except ValueError:
                continue  # prose that begins with the name
            if words and (words[0] in VERBS or "--config-dir" in words):
                continue  # a folder of one's own has groups of its own
            for word in words:
                if "=" in word and not word.startswith("-"):
                    try:
                        check_override(word, default)
                    except (AssertionError, Failed) as error:
                        pytest.fail(f"{page.name}: {line}: {error}")
                    checked += 1
    assert checked > 40


def test_the_pad_token_that_a_tokenizer_lacks_is_told_as_it_is_typed(tmp_path: Path) -> None:
    """`<|endoftext|>` needs a pair of quotes for the shell and one for Hydra."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from plumbrule.errors import ConfigError
    from plumbrule.lm.chat import load_tokenizer

    raw = Tokenizer(models.WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>").save_pretrained(
        tmp_path
    )
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(tmp_path)
    pasted = str(caught.value).rpartition("; set ")[2].rstrip(".")
    (word,) = shlex.split(pasted)
    assert PARSER.parse_override(word).value() == "<|endoftext|>"
    assert word.startswith("model.pad_token=")
