"""What makes a comparison of arms unfair or empty is told while planning, before a model loads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks.questions import BENCHMARK
from eval.knowledge.checks import check_arms, planned_questions, require_both_sides
from plumbrule.cli.composition import composed_config
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import ConfigError
from plumbrule.pipeline.checks import place
from plumbrule.pipeline.compose import compose_run
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import Node
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from sft.data.config import DataConfig, DatasetConfig

EXPERIMENT = "experiment=rag_or_finetune"


def question(number: int, answerable: str, entity: str) -> dict[str, Any]:
    meta = {"answer": "x", "answerable": answerable, "entity": entity}
    fields = {"question": f"Who is {number}?"}
    return {
        "id": f"q{number}",
        "task": "question",
        "fields": fields,
        "group": entity,
        "meta": meta,
    }


def items(rows: list[dict[str, Any]]) -> list[BenchmarkItem]:
    return [BenchmarkItem(r["id"], r["task"], r["fields"], r["group"], r["meta"]) for r in rows]


@pytest.fixture(scope="module")
def experiment() -> tuple[RunConfig, list[Node]]:
    """The experiment, composed and checked once."""
    return compose_run(composed_config([EXPERIMENT]))[:2]


@pytest.fixture
def arms(experiment: tuple[RunConfig, list[Node]]) -> dict[str, PlacedNode]:
    """Its nodes by name, to be spoilt."""
    return {node.name: node for node in place(copy.deepcopy(experiment[1]))}


def test_the_experiment_has_six_arms_within_one_budget(
    experiment: tuple[RunConfig, list[Node]],
) -> None:
    _, nodes = experiment
    assert nodes[-1].kind == "knowledge"
    slots = [slot for slot in nodes[-1].inputs if slot.startswith("arm_")]
    assert [slot.removeprefix("arm_") for slot in slots] == nodes[-1].config.arms
    built = {node.name: node.config for node in nodes}
    assert built["tuned"].train_tokens == nodes[-1].config.budget.training_tokens
    assert built["ppo_with"].retrieval.share > 0
    assert built["ppo_without"].retrieval.share == 0
    assert built["ppo_with"].total_episodes == built["ppo_without"].total_episodes
    assert built["answers_rag"].retrieval.budget_tokens == nodes[-1].config.budget.context_tokens


def test_with_several_seeds_each_arm_has_each(composed: Callable) -> None:
    _, nodes = composed(EXPERIMENT, "run.seeds=[0,1]")
    assert sum(slot.startswith("arm_") for slot in nodes[-1].inputs) == 12
    assert sum(node.kind == "knowledge" for node in nodes) == 1


def test_as_it_is_nothing_is_refused(arms: dict[str, PlacedNode]) -> None:
    check_arms(arms["knowledge"], RuntimeConfig())


def spoil(arms: dict[str, PlacedNode], node: str, setting: str, value: Any) -> None:
    """Set a setting of a node's config, or with inputs.<slot> one of its inputs."""
    head, _, last = setting.rpartition(".")
    if head == "inputs":
        inputs = {**arms[node].inputs, last: arms[value]} if value else dict(arms[node].inputs)
        if not value:
            del inputs[last]
        object.__setattr__(arms[node], "inputs", inputs)
        return
    config = arms[node].config
    for part in head.split(".") if head else ():
        config = getattr(config, part)
    setattr(config, last, value)


@pytest.mark.parametrize(
    ("node", "setting", "value", "said"),
    [
        ("knowledge", "inputs.arm_rag", None, "hold arm_rag, which knowledge.arms names"),
        ("knowledge", "arms", ["base", "rag"], "name fine_tuned, which is an input"),
        ("knowledge", "prices.source", " ", "knowledge.prices.source (=' ') must say where"),
        ("answers_both", "inputs.questions", None, "hold questions, being arm both"),
        (
            "answers_rag",
            "retrieval.budget_tokens",
            80,
            "eval.retrieval.budget_tokens of node answers_rag (=80 tokens) must be "
            "knowledge.budget.context_tokens (=160)",
        ),
        (
            "tuned",
            "train_tokens",
            1000,
            "sft.train_tokens of node tuned (=1000 tokens) must be "
            "knowledge.budget.training_tokens (=",
        ),
        ("tuned", "train_tokens", None, "sft.train_tokens of node tuned (=None tokens)"),
        ("knowledge", "budget.training_tokens", None, "knowledge.budget.training_tokens (=None)"),
        (
            "ppo_without",
            "total_episodes",
            512,
            "of node ppo_without (=16384 tokens) must be knowledge.budget.generated_tokens (=",
        ),
        ("answers_tuned", "inputs.policy", "base", "(=node base of kind base) must be made by sft"),
        ("answers_tuned", "inputs.policy", "rm", "(=node rm of kind rm) must be made by sft"),
        ("tuned", "inputs.base", None, "must be made from the baseline's policy (sft)"),
        ("answers_rag", "conditions", ["closed", "rag"], "be closed or rag alone"),
        ("answers_both", "conditions", ["search"], "be closed or rag alone"),
        ("answers_both", "inputs.questions", "prompts", "be questions, which the baseline is"),
    ],
)
def test_what_is_missing_or_unequal_is_told_while_planning(
    arms: dict[str, PlacedNode], node: str, setting: str, value: Any, said: str
) -> None:
    spoil(arms, node, setting, value)
    with pytest.raises(ConfigError) as caught:
        check_arms(arms["knowledge"], RuntimeConfig())
    assert said in str(caught.value)


def test_nodes_in_a_row_share_one_budget(arms: dict[str, PlacedNode]) -> None:
    """Fine-tuned twice, with the whole budget each time, is twice the budget."""
    again = PlacedNode("again", "sft", {"base": arms["tuned"]}, copy.deepcopy(arms["tuned"].config))
    arms["again"] = again
    spoil(arms, "answers_tuned", "inputs.policy", "again")
    with pytest.raises(ConfigError) as caught:
        check_arms(arms["knowledge"], RuntimeConfig())
    said = str(caught.value)
    assert "sft.train_tokens of nodes tuned and again together (=300000 tokens) must be" in said
    again.config.train_tokens = 50_000
    spoil(arms, "tuned", "train_tokens", 100_000)
    spoil(arms, "answers_both", "inputs.policy", "again")
    check_arms(arms["knowledge"], RuntimeConfig())


def test_a_given_baseline_leaves_the_other_arms_checked(
    arms: dict[str, PlacedNode], tmp_path: Path
) -> None:
    object.__setattr__(arms["answers_base"], "given", tmp_path)
    check_arms(arms["knowledge"], RuntimeConfig())
    arms["answers_rag"].config.retrieval.budget_tokens = 80
    with pytest.raises(ConfigError, match=r"of node answers_rag \(=80 tokens\)"):
        check_arms(arms["knowledge"], RuntimeConfig())


def test_an_arm_without_an_index_is_closed_book_whatever_its_conditions(
    arms: dict[str, PlacedNode],
) -> None:
    arms["answers_base"].config.conditions = ["closed", "rag"]
    check_arms(arms["knowledge"], RuntimeConfig())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("nodes.tuned.set.train_tokens=1000", "sft.train_tokens of node tuned (=1000 tokens)"),
        ("knowledge.prices.training_tokens=nan", "knowledge.prices.training_tokens (=nan"),
        ("atlas.num_after=0", "atlas.num_after (=0 entities)"),
    ],
)
def test_the_command_refuses_before_anything_is_built(
    composed: Callable, override: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(EXPERIMENT, override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("memory", "a"), ("memory", "b")], "2, on 0 entities after the cut-off"),
        ([("documents", "a"), ("documents", "b")], "2, on 0 entities before the cut-off"),
        ([("documents", "a")], "1, on 0 entities before the cut-off"),
        (
            [("memory", "a"), ("memory", "b"), ("documents", "c"), ("documents", "c")],
            "4, on 1 entities after the cut-off",
        ),
    ],
)
def test_questions_on_one_side_or_one_entity_are_refused(
    rows: list[tuple[str, str]], said: str
) -> None:
    asked = items([question(i, which, entity) for i, (which, entity) in enumerate(rows)])
    with pytest.raises(ConfigError) as caught:
        require_both_sides(asked, "questions of node questions")
    assert said in str(caught.value)
    assert "raise atlas.num_questions" in str(caught.value)


def test_questions_of_a_file_are_read_while_planning(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [question(i, "memory", f"e{i}") for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = DataConfig(
        role="questions",
        dataset=DatasetConfig(format="jsonl", path=str(path)),
        items=BENCHMARK.items,
    )
    found = planned_questions(PlacedNode("questions", "data", {}, config))
    assert [item.id for item in found] == ["q0", "q1", "q2"]


def test_questions_of_a_given_artifact_are_read(tmp_path: Path) -> None:
    rows = [question(0, "memory", "e")]
    (tmp_path / "records.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    found = planned_questions(PlacedNode("questions", "data", {}, None, tmp_path))
    assert found[0].meta["answerable"] == "memory"
