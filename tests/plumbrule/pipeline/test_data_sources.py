"""A run on other data than Atlas: what the data fill, what is left out, what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.errors import ConfigError, DataError
from plumbrule.pipeline.compose import Composed
from plumbrule.pipeline.data_sources import describe_sources, model_words
from plumbrule.pipeline.plan_facts import preview_data, token_counter
from plumbrule.store.fingerprint import hashed_config


@pytest.fixture
def compose(compose_whole: Callable[..., Composed]) -> Callable[..., Composed]:
    """Compose overrides, with goals and what is left out."""
    return compose_whole


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Files of pairs, demonstrations and prompts, by name."""
    rows = [{"prompt": f"What is {i} plus {i}?"} for i in range(60)]
    kinds = {
        "prompts": rows,
        "demonstrations": [{**r, "completion": f"It is {i}."} for i, r in enumerate(rows)],
        "pairs": [{**r, "chosen": f"It is {i}.", "rejected": "No."} for i, r in enumerate(rows)],
        "documents": [{"text": f"The number {i} is even."} for i in range(20)],
    }
    paths = {}
    for name, of in kinds.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in of), encoding="utf-8")
        paths[name] = str(path)
    return paths


def test_pairs_train_the_reward_model_themselves_and_nothing_is_atlas(
    compose: Callable[..., Composed], data: dict[str, str]
) -> None:
    run = compose("dataset=jsonl", f"dataset.path={data['pairs']}")
    by_name = {node.name: node for node in run.nodes}
    assert by_name["rm"].inputs["preferences"] == "preferences"
    assert not {"feedback", "index", "questions", "halueval", "bold", "eval_base"} & set(by_name)
    formats = {n.config.dataset.format for n in run.nodes if n.kind == "data"}
    assert formats == {"jsonl"}
    assert run.goals == ["compare"]
    (line,) = run.left_out  # once, together
    for name in ("reading", "bold", "questions", "halueval", "documents", "eval_base"):
        assert name in line
    assert run.config.run.notes[-1].lower().startswith("left out, since the data hold none")
    lines = describe_sources(run.nodes, {"prompts": "54 rows, 6 held out"})
    assert lines[0].startswith(f"jsonl {data['pairs']}: ")
    assert "prompts (54 rows, 6 held out)" in lines[0]
    assert lines[1] == "the data's own: rankings for rm"


def test_gold_ranks_nothing_outside_atlas_and_one_message_lists_all(
    compose: Callable[..., Composed], data: dict[str, str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("dataset=jsonl", f"dataset.path={data['prompts']}")
    said = str(caught.value)
    assert said.startswith("2 things must be set: (1) role demonstrations")
    assert "dataset@data.demonstrations=jsonl data.demonstrations.path=<file>" in said
    assert "(2) nodes.feedback: feedback.labeller (=gold) must be another" in said
    with pytest.raises(ConfigError, match=r"^nodes\.feedback: feedback\.labeller \(=gold\)"):
        compose("dataset=jsonl", f"dataset.path={data['demonstrations']}")
    # another labeller is what it says
    run = compose(
        "dataset=jsonl",
        f"dataset.path={data['demonstrations']}",
        "feedback.labeller=judge",
        "nodes.feedback.inputs.judge=base",
    )
    assert "feedback" in {node.name for node in run.nodes}
    assert "judge: rankings for rm" in describe_sources(run.nodes, {})


def test_a_reward_of_ones_own_needs_no_rankings(
    compose: Callable[..., Composed], data: dict[str, str]
) -> None:
    terms = "reward.terms=[{name: length, weight: -0.1}]"
    run = compose("dataset=jsonl", f"dataset.path={data['demonstrations']}", terms)
    by_name = {node.name: node for node in run.nodes}
    assert not {"rm", "feedback"} & set(by_name)
    assert by_name["eval"].inputs["reward"] == by_name["eval_sft"].inputs["reward"] == "reward"
    assert by_name["reward"].config.weights == {"length": -0.1}
    # where the data do hold rankings and the reward does not ask for a model, PPO gets none
    run = compose("dataset=jsonl", f"dataset.path={data['pairs']}", terms)
    assert "rm" not in next(node for node in run.nodes if node.kind == "ppo").inputs


def test_a_role_of_its_own_is_used_where_it_is_named(
    compose: Callable[..., Composed], data: dict[str, str]
) -> None:
    own = ("dataset@data.preferences=jsonl", f"data.preferences.path={data['pairs']}")
    run = compose(*own)  # all else is Atlas
    by_name = {node.name: node for node in run.nodes}
    assert by_name["rm"].inputs["preferences"] == "preferences"
    assert run.left_out == []
    documents = ("dataset@data.documents=jsonl", f"data.documents.path={data['documents']}")
    run = compose("dataset=jsonl", f"dataset.path={data['pairs']}", *documents)
    by_name = {node.name: node for node in run.nodes}
    assert by_name["ppo"].inputs["index"] == "index"
    assert by_name["ppo"].config.retrieval.share == 0.5
    # Atlas's documents come into it only by name
    run = compose("dataset=jsonl", f"dataset.path={data['pairs']}", "dataset@data.documents=atlas")
    assert "Atlas (generated): documents" in describe_sources(run.nodes, {})


def test_experiment_own_is_one_short_line(
    compose: Callable[..., Composed], data: dict[str, str]
) -> None:
    words = model_words(["experiment=own", f"dataset.path={data['pairs']}", "model=a/b"], ["gpt2"])
    assert words[2:] == ["model=given", "model.name_or_path=a/b"]
    assert model_words(["model=gpt2"], ["gpt2"]) == ["model=gpt2"]
    run = compose(*words[:2], "model=given", "model.name_or_path=plumbrule/atlas-base")
    assert [node.name for node in run.nodes if node.kind == "rm"] == ["rm"]
    with pytest.raises(
        ConfigError, match=r"^2 things must be set: \(1\) model.name_or_path.*\(2\)"
    ):
        compose("experiment=own")


def test_data_are_counted_while_planning_and_a_bad_row_stops_the_plan(
    compose: Callable[..., Composed], data: dict[str, str], tmp_path: Path
) -> None:
    from plumbrule.pipeline.plan import make_plan
    from plumbrule.store.artifacts import Store

    store = Store(tmp_path / "store")
    goals = "run.goals=[sft]"
    run = compose("dataset=jsonl", f"dataset.path={data['pairs']}", goals)
    plan = make_plan(run.nodes, store)
    assert set(preview_data(run.config, plan)) == {"demonstrations"}
    assert preview_data(run.config, plan)["demonstrations"].endswith("held out")
    with open(data["pairs"], "a", encoding="utf-8") as file:
        file.write('{"prompt": 3}\n')
    with pytest.raises(DataError, match=r"pairs\.jsonl, row 61"):
        preview_data(run.config, plan)
    assert not (tmp_path / "store").exists()  # planning makes no folder


def test_prompts_that_are_too_long_are_counted_by_the_tokenizer_alone(
    compose: Callable[..., Composed], tmp_path: Path
) -> None:
    from plumbrule.pipeline.plan import make_plan
    from plumbrule.store.artifacts import Store

    path = tmp_path / "long.jsonl"
    rows = [{"prompt": f"Say {i}. " + "and so on " * (900 if i < 9 else 1)} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = compose("dataset=jsonl", f"dataset.path={path}", "run.only=prompts")
    plan = make_plan(run.nodes, Store(tmp_path))
    assert preview_data(run.config, plan)["prompts"].endswith("9 too long")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:9]), encoding="utf-8")
    with pytest.raises(DataError, match=r"\(=9, all longer\) must fit 512 tokens; raise"):
        preview_data(run.config, plan)
    count = token_counter("plumbrule/atlas-base")
    assert count is not None
    assert count("and so on") == 3
    assert token_counter(None) is None


QUESTION = {
    "question": "Can pigs fly?",
    "mc1_targets": {"No": 1, "Yes": 0},
    "mc2_targets": {"No": 1, "Yes": 0},
}


@pytest.fixture
def truthfulqa(tmp_path: Path) -> str:
    """A file of TruthfulQA's shape."""
    path = tmp_path / "mc_task.json"
    path.write_text(json.dumps([QUESTION]), encoding="utf-8")
    return f"eval.truthfulqa.path={path}"


def test_naming_a_benchmarks_files_adds_it_to_each_evaluation(
    compose: Callable[..., Composed], truthfulqa: str
) -> None:
    plain = {node.name: node for node in compose().nodes}
    assert "truthfulqa" not in plain
    run = compose(truthfulqa)
    by_name = {node.name: node for node in run.nodes}
    assert by_name["truthfulqa"].config.dataset.format == "truthfulqa"
    for name in ("eval_base", "eval_sft", "eval"):
        assert by_name[name].inputs == {**plain[name].inputs, "truthfulqa": "truthfulqa"}
        assert hashed_config(by_name[name].config) == hashed_config(plain[name].config)


def test_an_evaluation_may_do_without_it(compose: Callable[..., Composed], truthfulqa: str) -> None:
    run = compose(truthfulqa, "+nodes.eval_base.inputs.truthfulqa=null")
    by_name = {node.name: node for node in run.nodes}
    assert "truthfulqa" not in by_name["eval_base"].inputs
    assert "truthfulqa" in by_name["eval"].inputs


def test_a_node_that_has_the_benchmarks_name_is_refused(
    compose: Callable[..., Composed], truthfulqa: str
) -> None:
    node = "+nodes.truthfulqa={kind: data, set: {role: prompts}}"
    with pytest.raises(ConfigError, match=r"eval.truthfulqa.path needs a node truthfulqa"):
        compose(truthfulqa, node)


@pytest.fixture
def choices(tmp_path: Path) -> dict[str, str]:
    """A test and a train split of questions with given answers."""
    paths = {}
    for name, number in (("test", 3), ("train", 5)):
        one = {"choices": ["a", "b"], "answer": 0}
        rows = [{"question": f"{name} {i}?", **one} for i in range(number)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths[name] = f"'{path}'"
    return paths


def test_naming_a_train_split_gives_each_evaluation_its_rows_as_an_input(
    compose: Callable[..., Composed], choices: dict[str, str]
) -> None:
    named = (
        f"eval.multiple_choice.path={choices['test']}",
        f"eval.multiple_choice.shots={choices['train']}",
        "eval.num_shots=2",
    )
    run = compose(*named)
    by_name = {node.name: node for node in run.nodes}
    split, tested = by_name["multiple_choice_shots"], by_name["multiple_choice"]
    assert split.config.dataset.path != tested.config.dataset.path
    assert split.config.role == tested.config.role == "multiple_choice"
    assert by_name["eval"].inputs["multiple_choice_shots"] == "multiple_choice_shots"
    again = compose(*named[:1], f"eval.multiple_choice.shots={choices['test']}", "eval.num_shots=2")
    moved = {node.name: node for node in again.nodes}
    old, new = (hashed_config(nodes["eval"].config) for nodes in (by_name, moved))
    assert old == new  # the rows count, and not the name of their file
    with pytest.raises(ConfigError, match=r"nodes.multiple_choice_shots is there"):
        compose(*named, "+nodes.multiple_choice_shots.kind=data")


def test_examples_without_a_train_split_are_refused_with_who_takes_none(
    compose: Callable[..., Composed],
) -> None:
    with pytest.raises(
        ConfigError, match=r"eval.num_shots \(=2 examples\).*halueval: .*bold: BOLD"
    ):
        compose("eval.num_shots=2")
