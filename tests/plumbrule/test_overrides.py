"""What an error tells one to paste works when it is pasted."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from _pytest.outcomes import Failed
from documented import check_override, filled
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from places import ROOT

from plumbrule.overrides import as_override, unreadable
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.setting_names import settings_of

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
