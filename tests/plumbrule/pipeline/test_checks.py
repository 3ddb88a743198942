"""What is wrong between settings is said before a model loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["dataset.path=x.jsonl"],
            r"dataset\.path \(=x\.jsonl\) must be left out with dataset=atlas.*"
            r"read by dataset=jsonl or .*hh_rlhf.*; add dataset=jsonl, or experiment=own",
        ),
        (["dataset.validation_share=0.3"], r"dataset\.validation_share.*add dataset=jsonl"),
        (["dataset.annotators=soft"], r"dataset\.annotators"),
        (
            ["dataset@data.preferences=atlas", "data.preferences.path=x.jsonl"],
            r"data\.preferences\.path.*add dataset@data\.preferences=jsonl",
        ),
        (
            ["dataset=hh_rlhf", "dataset.path=.", "dataset.annotators=soft", "run.only=rm"],
            r"dataset\.annotators \(=soft\) must be left out with dataset=hh_rlhf",
        ),
    ],
)
def test_a_setting_that_the_chosen_format_does_not_read_is_refused(
    composed: Callable, overrides: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        composed(*overrides)


def test_a_setting_that_the_format_reads_is_taken(composed: Callable, tmp_path: Path) -> None:
    composed("dataset.max_rows=100")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"prompt": "Say {i}."}}\n' for i in range(20)), encoding="utf-8")
    role = ["dataset@data.prompts=jsonl", f"data.prompts.path={path}"]
    composed("run.only=prompts", *role, "data.prompts.validation_share=0.3")


def test_folds_reach_what_is_split_and_nothing_else(composed: Callable, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"prompt": "Say {i}."}}\n' for i in range(20)), encoding="utf-8")
    role = ["dataset@data.prompts=jsonl", f"data.prompts.path={path}"]
    role.append("data.prompts.validation_share=0")
    nodes = composed("run.only=prompts", *role, "folds=5", "fold=3")[1]
    assert [(node.config.fold, node.config.folds) for node in nodes] == [(3, 5)]
    for words, says in (
        (["run.only=prompts"], r"folds \(=5\) must be left out where the source of prompts brings"),
        (["run.only=index"], r"folds \(=5\) must be left out where no node to be built holds rows"),
    ):
        with pytest.raises(ConfigError, match=says):
            composed(*words, "folds=5", "fold=3")
    with pytest.raises(ConfigError, match=r"fold \(=5\) must lie in \[0, 4\]"):
        composed("run.only=prompts", *role, "folds=5", "fold=5")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("https://x.org/a.jsonl", r"not a URL; download it"),
        ("anthropic/hh-rlhf", r"hf download --repo-type dataset anthropic/hh-rlhf"),
        ("rows.tsv", r"must end in one of \.jsonl.*write a \.tsv as CSV"),
    ],
)
def test_a_path_that_is_no_table_here_says_what_to_do(
    composed: Callable, path: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.path \(={path}\) .*{says}"):
        composed("dataset=jsonl", f"dataset.path={path}", "run.only=sft")
